import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignloop.cli.data import app
from alignloop.config import make_plan, parse_overrides
from alignloop.config.shipped import find_method
from alignloop.data.columns import read_records
from alignloop.errors import DataError


def put(path: Path, *rows) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(*arguments) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def fails(*arguments) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert isinstance(result.exception, DataError)
    assert result.exception.exit_code == 2
    return str(result.exception)


PAIRS = [
    {"prompt": "Write a poem", "chosen": "a rose", "rejected": "no"},
    {"prompt": "시를 써 주세요", "chosen": "꽃이 핀다", "rejected": ""},
    {"prompt": "Write a poem", "chosen": "a rose", "rejected": "no"},
    {"prompt": "Write a poem", "chosen": 3, "rejected": "no"},
]


def test_check_for_people(tmp_path):
    file = put(tmp_path / "p.jsonl", *PAIRS)
    assert run("check", file).splitlines() == [
        f"{file}: preference, 2 usable of 4 rows",
        "  dropped     1  empty_completion",
        f"                 {file}:2: field 'rejected': value '': expected text, found none",
        "  dropped     1  wrong_type",
        f"                 {file}:4: field 'chosen': value 3: expected text, found a number",
        f"  exact duplicates     1  ({file}:3: the same as {file}:1)",
        "  near duplicates      0",
        "  chosen is rejected   0",
        "  contradictions       0",
        "  prompts, characters       median 12, 95 % below 12, most 12  16|█|16",
        "  completions, characters   median 4, 95 % below 6, most 6  2|█ █|8",
        "  instructions: 1 verbs, 1 verb-object pairs; as varied as 1.0 equally frequent verbs",
        "    most frequent: write poem 2",
        "next:",
        f"  alignloop train dpo dataset={file} eval_fraction=0.1     # train the policy on them",
        f"  alignloop train reward dataset={file} eval_fraction=0.1  # train a reward model on them",
    ]


def test_what_follows_a_check_can_be_typed(tmp_path):
    rows = {
        "document": {"text": "a b"},
        "demonstration": {"prompt": "p", "response": "r"},
        "preference": {"prompt": "p", "chosen": "c", "rejected": "r"},
        "label": {"prompt": "p", "completion": "c", "label": True},
        "ranking": {"prompt": "p", "responses": ["a", "b"], "ranking": [1, 2]},
        "rating": {"prompt": "p", "completion": "c", "score": 3},
        "prompt": {"prompt": "p"},
    }
    for kind, row in rows.items():
        file = put(tmp_path / f"{kind} rows.jsonl", row)
        said = run("check", file)
        assert said.startswith(f"{file}: {kind}, 1 usable of 1 rows")
        commands = [line.partition("#")[0] for line in said.partition("next:")[2].splitlines() if line]
        assert commands, kind
        for command in commands:
            program, verb, *words = shlex.split(command)
            method = words.pop(0) if verb == "train" else verb
            assert program == "alignloop"
            assert words[0] == f"dataset={file}"
            found = find_method(method, "")
            make_plan(found.recipe, {**found.chosen, **parse_overrides(words)}, stage=found.stage)


def test_columns_are_handed_on(tmp_path):
    file = put(tmp_path / "p.jsonl", {"q": "p", "chosen": "c", "rejected": "r"})
    said = run("check", file, "--column", "prompt=q", "--kind", "preference")
    words = shlex.split(said.partition("next:")[2].splitlines()[1].partition("#")[0])
    assert parse_overrides(words[3:])["columns"].value == {"prompt": "q"}


def test_check_for_programs(tmp_path):
    report = json.loads(run("check", put(tmp_path / "p.jsonl", *PAIRS), "--json"))
    assert (report["kind"], report["rows"], report["usable"]) == ("preference", 4, 2)
    assert report["dropped"]["empty_completion"]["count"] == 1
    assert report["findings"]["exact_duplicates"]["count"] == 1
    assert report["diversity"]["prompts"]["histogram"] == {"16": 2}
    assert report["warnings"] == []


def test_check_faults(tmp_path):
    file = put(tmp_path / "p.jsonl", *PAIRS)
    assert fails("check", file, "--strict").startswith(f"{file}:2: field 'rejected'")
    assert fails("check", tmp_path / "none.jsonl") == f"{tmp_path}/none.jsonl: no such file"
    assert fails("check", put(tmp_path / "e.jsonl")).endswith("no usable row: the file has none")
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n' * 6 + "{", encoding="utf-8")
    assert "b.jsonl:7: broken JSON" in fails("check", tmp_path / "b.jsonl")
    assert "expected field=column" in fails("check", file, "--column", "prompt")
    assert "2 usable" in run("check", file, "--column", "prompt=prompt")


def test_show_marks_what_is_trained(tmp_path):
    file = put(tmp_path / "p.jsonl", PAIRS[0] | {"prompt": "[bold]질문[/bold]"})
    assert run("show", file, "--template", "chatml").splitlines() == [
        f"── {file}:1 (preference)",
        "chosen:",
        "<|im_start|>user",
        "[bold]질문[/bold]<|im_end|>",
        "<|im_start|>assistant",
        "[[a rose<|im_end|>]]",
        "rejected:",
        "<|im_start|>user",
        "[bold]질문[/bold]<|im_end|>",
        "<|im_start|>assistant",
        "[[no<|im_end|>]]",
    ]
    assert run("show", put(tmp_path / "d.jsonl", {"text": "raw"})).splitlines()[1] == "[[raw]]"
    shown = run("show", put(tmp_path / "q.jsonl", *({"prompt": f"q{k}"} for k in range(5))), "-n", 2)
    assert [line for line in shown.splitlines() if line.startswith("q")] == ["q0", "q1"]


def test_show_and_check_say_which_turns_are_trained(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}] * 2
    file = put(tmp_path / "c.jsonl", {"messages": turns})
    assert "[[b<eos>]]\n\nq\n\n[[b<eos>]]" in run("show", file)
    assert run("show", file, "--train-on", "last").count("[[") == 1
    assert "2 of 2 turns of the assistant are trained (train_on: all)" in run("check", file)
    assert json.loads(run("check", file, "--json"))["turns"] == {"assistant": 2, "trained": 2}


def test_show_colours_on_a_terminal_and_passes_no_control_characters(tmp_path):
    file = put(tmp_path / "p.jsonl", {"prompt": "q\x1b[2J", "response": "a\r👩\u200d🚀"})
    result = CliRunner().invoke(app, ["show", file], env={"FORCE_COLOR": "1", "TERM": "xterm-256color"})
    assert "\x1b[2mq\\x1b[2J" in result.output  # dim, and the escape of the data spelled out
    assert "a\\r👩\u200d🚀<eos>" in result.output
    assert "[[" not in result.output


def test_show_with_the_tokens_of_a_model(tmp_path):
    file = put(tmp_path / "p.jsonl", {"prompt": "Hi", "response": "the 뷁"})
    lines = run("show", file, "--model", "tiny").splitlines()
    assert lines[1:4] == ["<|im_start|>user", "Hi<|im_end|>", "<|im_start|>assistant"]
    pieces = lines[4].removeprefix("[[").removesuffix("]]").split("¦")
    assert "".join(pieces) == "the 뷁<|im_end|>"
    assert pieces[-2].strip() == "뷁"  # several tokens, one character
    assert pieces[-1] == "<|im_end|>"


def test_show_keeps_marks_in_messages_apart_from_the_templates_own(tmp_path):
    from alignloop.model.tiny import tiny_model

    end = str(tiny_model()[1].eos_token)
    pair = {"prompt": f"q{end}", "chosen": f"a{end}b", "rejected": "c"}
    text = run("show", put(tmp_path / "p.jsonl", pair), "--model", "tiny")
    chosen, rejected = text.split("[[")[1:]
    assert chosen.partition("]]")[0].split("¦")[-1] == rejected.partition("]]")[0].split("¦")[-1] == end
    assert end not in chosen.partition("]]")[0].split("¦")[:-1]  # one token only at the end of the turn
    assert chosen.partition("]]")[0].replace("¦", "") == f"a{end}b{end}"
    assert f"q{end}" in text


def test_convert(tmp_path):
    file = put(tmp_path / "p.jsonl", *PAIRS)
    output = tmp_path / "out" / "labels.jsonl"
    told = run("convert", file, "--to", "label", "-o", output)
    assert f"{output}: 4 label records from 2 preference records" in told
    assert "dropped: 1 empty_completion, the first:" in told
    data = read_records(str(output))
    assert (data.kind, len(data.records)) == ("label", 4)
    assert data.records[0].provenance.file == file
    assert data.records[0].provenance.origin == "derived"
    assert "exists already; --force replaces it" in fails("convert", file, "--to", "label", "-o", output)
    before = output.read_bytes()
    assert "cannot be made into a ranking" in fails(
        "convert", file, "--to", "ranking", "-o", output, "--force"
    )
    assert output.read_bytes() == before
    run("convert", file, "--to", "demonstration", "-o", output, "--force")
    assert read_records(str(output)).kind == "demonstration"
    ties = put(tmp_path / "t.jsonl", {"prompt": "q", "responses": ["a", "b"], "ranking": [1, 1]})
    assert "no preference could be made from 1 records" in fails(
        "convert", ties, "--to", "preference", "-o", "x.jsonl"
    )


def test_split(tmp_path):
    file = put(tmp_path / "d.jsonl", *({"prompt": f"q{k // 2}", "response": str(k)} for k in range(60)))
    told = run("split", file, "-o", tmp_path / "parts", "--fractions", "train=0.7, test=0.3")
    sizes = {n: len(read_records(str(tmp_path / "parts" / f"{n}.jsonl")).records) for n in ("train", "test")}
    assert sum(sizes.values()) == 60
    assert all(size % 2 == 0 for size in sizes.values())  # both answers to a prompt on one side
    assert f"train.jsonl: {sizes['train']} demonstration records" in told
    assert "exists already" in fails("split", file, "-o", tmp_path / "parts")
    few = put(tmp_path / "few.jsonl", {"text": "x"})
    assert "would be empty" in fails("split", few, "-o", tmp_path / "few")
    assert not (tmp_path / "few").exists()
    for wrong in ("train", "train=x", "a/b=1", "=1"):
        assert "expected such as train=0.9" in fails(
            "split", file, "-o", tmp_path / "p2", "--fractions", wrong
        )
    assert "sum to 1" in fails("split", file, "-o", tmp_path / "p2", "--fractions", "a=0.5")


@pytest.mark.parametrize("command", ["check", "show", "convert", "split"])
def test_help(command):
    assert "--kind" in CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "120"}).output


def test_filter_removes_and_says_what(tmp_path):
    rows = [
        {"prompt": "Write a poem", "chosen": "a rose", "rejected": "no"},
        {"prompt": "Write a poem", "chosen": "a rose", "rejected": "no"},
        {"prompt": "같은 답", "chosen": "꽃이 핀다", "rejected": " 꽃이 핀다"},
        {"prompt": "What is in the exam?", "chosen": "questions", "rejected": "answers"},
        {"prompt": "Short", "chosen": "ok then", "rejected": "x" * 60},
        {"prompt": "Which one", "chosen": "left", "rejected": "right"},
        {"prompt": "Which one", "chosen": "right", "rejected": "left"},
        {"prompt": "시를 써 주세요", "chosen": "꽃이 핀다", "rejected": "싫어요"},
    ]
    file = put(tmp_path / "p.jsonl", *rows)
    exam = put(tmp_path / "exam.jsonl", {"prompt": "what is in the EXAM?"})
    out = tmp_path / "clean.jsonl"
    said = run("filter", file, "-o", out, "--without", exam, "--completion", ":50", "--contradictions")
    told = said.partition("next:")[0].splitlines()
    assert told[-1] == f"{out}: 2 of 8 preference records"
    assert [line.split(",")[0] for line in told[:-1]] == [
        "removed: 1 duplicate",
        "removed: 1 chosen_is_rejected",
        "removed: 2 contradiction",
        "removed: 1 completion_too_long",
        "removed: 1 in_evaluation",
    ]
    assert [r.prompt[0].content for r in read_records(str(out)).records] == ["Write a poem", "시를 써 주세요"]
    assert "exists already" in fails("filter", file, "-o", out)
    assert "nothing is left" in fails("filter", file, "-o", out, "--force", "--prompt", "900:")
    assert "expected such as 1:2000" in fails("filter", file, "-o", out, "--force", "--prompt", "many")
