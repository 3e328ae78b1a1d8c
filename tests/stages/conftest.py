import pytest

from alignloop.data.columns import write_records
from alignloop.data.instructions import instruction_prompts
from alignloop.judges.edits import demonstrations
from alignloop.stages import local

EASY = ("lowercase", "no_commas", "quoted", "ends_with_question")


@pytest.fixture(scope="session")
def rows(tmp_path_factory):
    """Small data files: prompts, held-out prompts, demonstrations."""
    folder = tmp_path_factory.mktemp("rows")
    write_records(folder / "prompts.jsonl", instruction_prompts("train", 12, 0, EASY))
    write_records(folder / "held_out.jsonl", instruction_prompts("eval", 10, 0, EASY))
    write_records(folder / "demos.jsonl", demonstrations(24, 0))
    return folder


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """How many prompts each call of the engine was given, by candidates that run here."""
    counts: list[int] = []
    original = local.generate

    def counting(model, tokenizer, prompts, *args, **keys):
        counts.append(len(prompts))
        return original(model, tokenizer, prompts, *args, **keys)

    monkeypatch.setattr(local, "generate", counting)
    return counts
