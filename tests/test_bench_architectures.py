"""The page about architectures: what it calls wrong, and how it shows what is refused."""

from __future__ import annotations

import sys

import pytest
import torch

from alignloop.model.logprobs import LogitTransform
from bench import architectures
from bench.architectures import main, row
from bench.architectures_report import CHOICES, COLUMNS, table, wrong


def test_a_line_of_a_plain_model_is_right_in_both_types() -> None:
    for dtype, rounding in ((torch.float32, 1e-5), (torch.bfloat16, 0.3)):
        line = row("llama", dtype)
        assert (line["class"], line["rows"], line["greedy decode"][:4]) == (
            "LlamaForCausalLM",
            "packed",
            "same",
        )
        assert all(float(line[name]) < rounding for name in ("log-probs", "gradient", "sampled log-probs"))
        assert not wrong([line])


def test_another_model_is_called_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Granite with its logits divided twice, as a list of field names once had it for HyperCLOVA X."""
    monkeypatch.setattr("alignloop.model.packed.head_transform", lambda hf: LogitTransform(4.0))
    monkeypatch.setattr("alignloop.model.verify.Verification.layout", lambda self, read: "packed")
    line = row("granite", torch.float32)
    assert line["log-probs"].startswith("WRONG")
    assert line["gradient"].startswith("WRONG")
    assert wrong([line, {"architecture": "other"}]) == ["granite"]


def test_sentences_of_refusal_stand_below_the_table() -> None:
    line = dict.fromkeys(COLUMNS, "refused: X does Y; it cannot be trained here") | {
        "rows": "refused",
        CHOICES: "–",
    }
    shown = table([{"architecture": "one", **line}, {"architecture": "two", **line}])
    assert shown.count("X does Y; it cannot be trained here") == 1
    assert "| two | refused | refused [1] | refused [1] | refused [1] | refused [1] | – |" in shown


def test_the_command_fails_where_something_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = dict.fromkeys(COLUMNS, "1e-07") | {
        "architecture": "llama",
        "class": "L",
        "rows": "packed",
        CHOICES: "–",
    }
    monkeypatch.setattr(
        sys, "argv", ["architectures", "--only", "llama", "--dtype", "float32", "--threads", "1"]
    )
    monkeypatch.setattr(architectures, "row", lambda name, dtype: said)
    assert main() == 0
    monkeypatch.setattr(architectures, "row", lambda name, dtype: said | {"gradient": "WRONG: 1"})
    assert main() == 1
    assert "| llama | packed | 1e-07 | WRONG: 1 |" in capsys.readouterr().out
