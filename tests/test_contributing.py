"""The how-tos of docs/contributing.md: what they name is there, and their code does what they say."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignloop.data.packing import Completion, Group
from alignloop.judges.pairwise import AnswerPair
from alignloop.model.sampling import SamplingParams
from alignloop.model.tiny import tiny_model
from alignloop.records import Message, Prompt
from alignloop.rl.rollout import CompletionEngine, LocalEngine
from alignloop.rl.verifiers import VERIFIERS
from tests import helpers_docs

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
HOW_TOS = ("an objective", "a stage", "an evaluation set", "a verifier", "a judge", "a trap", "an engine")


def section(title: str) -> str:
    return PAGE.split(f"\n## Add {title}\n")[1].partition("\n## ")[0]


def run_code(title: str) -> dict[str, Any]:
    """Names that the section's Python block defines."""
    scope: dict[str, Any] = {"__name__": "how_to"}
    code = next(helpers_docs.blocks(section(title), "python"))
    exec(compile(code, f"docs/contributing.md, {title}", "exec"), scope)
    return scope


@pytest.mark.parametrize("title", HOW_TOS)
def test_files_and_names_of_a_how_to_are_there(title: str) -> None:
    text = section(title)
    for path in re.findall(r"`((?:alignloop|tests|docs)/[\w/]+\.\w+)`", text):
        if "NAME" not in path:
            assert (ROOT / path).is_file(), path
    named = re.findall(r"`(\w+)`(?: and an entry)? (?:in|of) `(alignloop/[\w/]+\.py)`", text)
    for name, path in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in names_of(tree), f"{name} in {path}"


def names_of(tree: ast.Module) -> set[str]:
    found = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def test_a_scorer_and_a_judge_are_settings_of_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alignloop.config import resolve
    from alignloop.user_functions import load_function

    monkeypatch.chdir(tmp_path)
    keys: dict[str, Any] = {"models": ["tiny"], "output_dir": "out"}
    for title, file in (("an evaluation set", "scorers.py"), ("a judge", "judges.py")):
        (tmp_path / file).write_text(next(helpers_docs.blocks(section(title), "python")), encoding="utf-8")
        keys |= yaml.safe_load(next(helpers_docs.blocks(section(title), "yaml")))
    config: Any = resolve("compare", keys).config
    asked = (Message("user", "q"),)
    judge = load_function(config.judge)
    assert judge(
        [AnswerPair(asked, "a", "bb"), AnswerPair(asked, "bb", "a"), AnswerPair(asked, "a", "b")]
    ) == [1.0, 0.0, 0.5]
    assert load_function(config.sets[0]["scorer"])([]) == []


def test_a_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignloop.rl.verifiers.VERIFIERS", dict(VERIFIERS))
    check = run_code("a verifier")["VERIFIERS"]["upper_case"]
    prompt = Prompt((Message("user", "Shout!"),))
    assert [check(text, prompt) for text in ("NO 1", "No", "", "12")] == [1.0, 0.0, 0.0, 0.0]


def test_a_trap_fires_and_does_not() -> None:
    import numpy as np

    def group(prompt: int, index: int) -> Group:
        ids = np.array([prompt, 5], dtype=np.int64)
        return Group(ids, (Completion(np.array([7]), np.array([True])),), index, {})

    check = run_code("a trap")["one_prompt"]
    found = check([group(1, 0), group(1, 1)])
    assert str(found) == "AL199 warning: all 2 rows have one prompt; add rows with other prompts"
    assert check([group(1, 0), group(2, 1)]) is None


def test_an_engine() -> None:
    model, tokenizer = tiny_model()
    prompts = [tokenizer(text).input_ids for text in ("the rain", "bees")]
    params = SamplingParams(max_tokens=4, seed=1)
    drawn = LocalEngine(model, tokenizer).generate(prompts, params, n=2)
    engine: CompletionEngine = run_code("an engine")["Recorded"](drawn)
    seen: list[tuple[int, int]] = []
    again = engine.generate(
        prompts, params, n=2, on_done=lambda prompt, index, _: seen.append((prompt, index))
    )
    assert again == drawn
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1)]
