"""Corrections of drafts: what obeys afterwards, what stays as it was, what is given up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignloop import api
from alignloop.config import FeedbackConfig
from alignloop.data.columns import read_records
from alignloop.data.instructions import instruction_prompts
from alignloop.judges.edits import EDITS, edited
from alignloop.judges.simulated import SimulatedAnnotator, simulate_edits
from alignloop.records import Demonstration, Message, Prompt
from alignloop.rl.verifiers import VERIFIERS

DRAFT = "Bees collect nectar, which they store. They fan it with wings, so water leaves it. Then they"


def asking(kind: str, **arguments: Any) -> Prompt:
    return Prompt((Message("user", "How do bees make honey?"),), constraints=({"kind": kind, **arguments},))


@pytest.mark.parametrize(
    ("constraint", "right"),
    [
        (asking("max_words", limit=10), "Bees collect nectar, which they store."),
        (asking("max_words", limit=5), "Bees collect nectar, which they."),
        (asking("num_sentences", count=1), "Bees collect nectar, which they store."),
        (
            asking("start_with", phrase="In short"),
            "In short, bees collect nectar, which they store. They fan it with wings, so water leaves it.",
        ),
        (
            asking("exclamation", count=1),
            "Bees collect nectar, which they store. They fan it with wings, so water leaves it!",
        ),
        (
            asking("exclamation", count=2),
            "Bees collect nectar, which they store! They fan it with wings, so water leaves it!",
        ),
        (
            asking("title"),
            "<<Bees Collect Nectar>>\nBees collect nectar, which they store. They fan it with wings, so "
            "water leaves it.",
        ),
        (
            asking("no_commas"),
            "Bees collect nectar which they store. They fan it with wings so water leaves it.",
        ),
        (
            asking("bold", count=1),
            "**Bees** collect nectar, which they store. They fan it with wings, so water leaves it.",
        ),
        (
            asking("ends_with_question"),
            "Bees collect nectar, which they store. They fan it with wings, so water leaves it. "
            "Do you agree?",
        ),
    ],
)
def test_a_draft_is_corrected_and_loses_the_sentence_that_was_cut_off(constraint: Prompt, right: str) -> None:
    assert edited(DRAFT, constraint) == right


def test_what_obeys_already_stays() -> None:
    text = "Of course, bees make honey from the nectar of flowers!"
    for prompt in (asking("start_with", phrase="Of course"), asking("exclamation", count=1)):
        assert edited(text, prompt) == text
    assert edited(f"<<Honey>>\n{text}", asking("title")) == f"<<Honey>>\n{text}"
    assert edited("I know that bees make honey.", asking("start_with", phrase="Well then")) == (
        "Well then, I know that bees make honey."
    )


def test_what_has_no_obvious_correction_is_given_up() -> None:
    assert edited(DRAFT, asking("include_words", words=["ladder"])) is None
    assert edited("Yes.", asking("exclamation", count=1)) is None  # no answer, whatever its marks
    assert edited("", asking("title")) is None
    assert edited("그렇습니다. 벌은 꽃에서 꿀을 모아, 집에 두고 말립니다.", asking("no_commas")) == (
        "그렇습니다. 벌은 꽃에서 꿀을 모아 집에 두고 말립니다."
    )


@pytest.mark.parametrize("kind", sorted(EDITS))
def test_every_kind_is_corrected_for_every_wording(kind: str) -> None:
    prompts = instruction_prompts("train", 12, 0, (kind,))
    texts = [edited(DRAFT, prompt) for prompt in prompts]
    done = [text for text in texts if text is not None]
    assert len(done) >= len(prompts) / 2, texts  # three sentences cannot be made of two
    assert all(VERIFIERS["constraints"](text, p) == 1 for text, p in zip(texts, prompts, strict=True) if text)


def test_an_answer_that_obeys_goes_before_one_that_is_corrected(tmp_path: Path) -> None:
    prompt = asking("ends_with_question")
    good = "Bees make honey from nectar. Have you ever seen them dance?"
    rows = [(prompt, [DRAFT, good]), (prompt, [DRAFT]), (asking("include_words", words=["x"]), [DRAFT])]
    first, second = simulate_edits(rows, SimulatedAnnotator(name="editor"))
    assert (first.completion, first.provenance.details["edited"]) == (good, False)
    assert second.completion.endswith("leaves it. Do you agree?")
    assert (second.provenance.origin, second.provenance.details["edited"]) == ("simulated", True)

    data = tmp_path / "answers.jsonl"
    row = {"prompt": "How do bees make honey?", "constraints": list(prompt.constraints), "responses": [DRAFT]}
    data.write_text(json.dumps(row) + "\n", encoding="utf-8")
    run = api.run(FeedbackConfig(dataset=str(data), output_dir=str(tmp_path / "run"), kind="edit"))
    (made,) = read_records(str(run.path / "data" / "rows.jsonl"), kind="demonstration").records
    assert isinstance(made, Demonstration)
    assert (made.completion, run.record["results"]["num_judgements"]) == (second.completion, 1)
