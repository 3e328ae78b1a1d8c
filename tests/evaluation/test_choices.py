import math

import pytest
import torch

from alignloop.data.chat import load_template
from alignloop.data.tokenize import Encoder
from alignloop.evaluation.choices import Question, choice_logprobs, is_right, true_share
from alignloop.model.packed import PackedModel
from alignloop.model.tiny import tiny_model
from alignloop.records import Message

ASKED = Question(
    (Message("user", "무슨 색? A. red B. blue"),), ("A", "B", "a longer one"), (True, False, False)
)


def test_logprobs_are_the_models_own_without_the_end_of_the_turn():
    model, tokenizer = tiny_model()
    encoder = Encoder(tokenizer, load_template("chatml", tokenizer))
    packed = PackedModel(model)
    (found,) = choice_logprobs(packed, encoder, [ASKED], 2048)
    packed.restore_attention()
    prompt = encoder.prompt(ASKED.prompt).tolist()
    for choice, value in zip(ASKED.choices, found, strict=True):
        ids = tokenizer.encode(choice, add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0].double().log_softmax(-1)
        expected = sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(ids))
        assert value == pytest.approx(expected, abs=1e-4)


def test_many_questions_in_small_portions_are_the_same():
    model, tokenizer = tiny_model()
    encoder = Encoder(tokenizer, load_template("chatml", tokenizer))
    packed = PackedModel(model)
    asked = [Question((Message("user", f"q{i}"),), ("A", "B"), (True, False)) for i in range(5)]
    small = choice_logprobs(packed, encoder, asked, 64)
    large = choice_logprobs(packed, encoder, asked, 4096)
    for a, b in zip(small, large, strict=True):
        assert a == pytest.approx(b, abs=1e-5)


def test_scores_by_hand():
    assert is_right(ASKED, [-1.0, -2.0, -3.0]) == 1.0
    assert is_right(ASKED, [-3.0, -2.0, -4.0]) == 0.0
    # e⁻¹ / (e⁻¹ + e⁻² + e⁻³)
    expected = math.exp(-1) / (math.exp(-1) + math.exp(-2) + math.exp(-3))
    assert true_share(ASKED, [-1.0, -2.0, -3.0]) == pytest.approx(expected)
    assert true_share(ASKED, [-1001.0, -1002.0, -1003.0]) == pytest.approx(expected)
