"""The local adviser against an independent computation."""

import pytest
import torch

from alignloop.data.chat import load_template
from alignloop.data.tokenize import Encoder
from alignloop.judges.adviser import Ask
from alignloop.judges.local_model import LocalAdviser
from alignloop.model.load import LoadedModel
from alignloop.model.tiny import tiny_model
from alignloop.records import Message


@pytest.fixture(scope="module")
def adviser() -> LocalAdviser:
    model, tokenizer = tiny_model(seed=3)
    encoder = Encoder(tokenizer, load_template("tokenizer", tokenizer))
    return LocalAdviser(LoadedModel(model, tokenizer, "tiny"), encoder, identity="t", token_budget=256)


def ask(text: str, *choices: str, **more) -> Ask:
    return Ask((Message("user", text),), choices, **more)


def test_probabilities_are_those_of_the_labels(adviser):
    asks = [ask("which?", "A", "B", "C"), ask("어느 것?", "A", "B"), ask("long? " * 20, "yes", "maybe not")]
    replies = adviser.ask(asks)
    model, _ = tiny_model(seed=3)
    for one, reply in zip(asks, replies, strict=True):
        prompt = adviser.encoder.prompt(one.messages).tolist()
        totals = []
        for choice in one.choices:
            label = adviser.encoder.tokenizer.encode(choice, add_special_tokens=False)
            with torch.no_grad():
                logits = model.double()(torch.tensor([[*prompt, *label]])).logits[0].log_softmax(-1)
            totals.append(sum(logits[len(prompt) - 1 + k, t].item() for k, t in enumerate(label)))
        expected = torch.softmax(torch.tensor(totals, dtype=torch.float64), 0)
        assert reply.probabilities == pytest.approx(expected.tolist(), abs=1e-5)
        assert sum(reply.probabilities) == pytest.approx(1)


def test_texts_depend_on_their_seed_alone(adviser):
    one, two = (
        ask("say", max_tokens=6, temperature=1.0, seed=1),
        ask("say", max_tokens=6, temperature=1.0, seed=2),
    )
    first = adviser.ask([one, two, ask("other", max_tokens=4)])
    assert first[0].text != first[1].text
    assert adviser.ask([two, one])[::-1] == first[:2]
    assert first[0].tokens_output == 6


def test_what_does_not_fit_the_context_is_a_fault(adviser):
    replies = adviser.ask(
        [ask("x " * 1200, "A", "B"), ask("short", "A", "B"), ask("y " * 1200, max_tokens=5)]
    )
    assert [r.fault for r in replies] == ["too_long", "", "too_long"]


def test_choices_and_texts_take_turns(adviser):
    before = adviser.ask([ask("which?", "A", "B")])
    adviser.ask([ask("say", max_tokens=3)])
    assert adviser.ask([ask("which?", "A", "B")]) == before
