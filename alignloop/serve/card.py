"""The model card: how a model was made, what was measured, how to use it. All of it from run folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alignloop.data.chat import ChatTemplate
from alignloop.errors import RunError
from alignloop.foreign import dump_yaml
from alignloop.report.folder import read_run
from alignloop.report.lineage import trace
from alignloop.report.outcome import outcome_of
from alignloop.runs import RUN_FILE, Run, find_run, find_runs, lineage
from alignloop.runs.evaluation_results import Evaluated
from alignloop.runs.json_values import Span

Json = Mapping[str, Any]
_SETTINGS = (
    "learning_rate",
    "beta",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "lora_r",
    "seed",
)
"""Keys of a recipe that a reader of the card asks for first."""


@dataclass(frozen=True, slots=True)
class CardOrigin:
    """Where an exported model comes from.

    Attributes:
        model: what was asked for, for models that are no run.
        run: its run folder, or None.
    """

    model: str
    run: Run | None

    @classmethod
    def of(cls, model: str | Path) -> CardOrigin:
        """The run at that path, if it is one."""
        folder = Path(model).expanduser()
        return cls(folder.name or str(model), Run.open(folder) if (folder / RUN_FILE).exists() else None)


def model_card(
    origin: CardOrigin, *, name: str, template: ChatTemplate, num_parameters: int, gguf_name: str | None
) -> str:
    """Text of the README.md of a model folder.

    Args:
        origin: where the model comes from.
        name: of the model.
        template: its chat template.
        num_parameters: of the model.
        gguf_name: file name of the GGUF file beside the card, or None.

    Returns:
        Markdown with the hub's front matter.
    """
    stages = [] if origin.run is None else list(_stages(lineage(origin.run)))
    tables = [] if origin.run is None else list(_evaluations(origin.run))
    simulated = _simulated(origin.run)
    parts = [
        _front_matter(stages, origin),
        f"# {name}\n\n{num_parameters:,} parameters; {_summary(stages, origin)}",
        *(["The preference labels in its training are simulated, not from people."] if simulated else []),
        "## How it was made\n\n" + (_history(stages) or "Not known: it was exported from a plain model."),
        *(["## What came out\n\n" + _came_out(origin.run)] if origin.run and _came_out(origin.run) else []),
        *(["## Settings of the last stage\n\n" + _settings(origin.run)] if origin.run else []),
        "## Evaluation\n\n" + ("\n\n".join(tables) or "None of this model was found beside its run."),
        _use(template, name, gguf_name),
        *(
            ["## Warnings of the run\n\n" + "\n".join(f"- {_cell(w)}" for w in _warnings(origin.run))]
            if _warnings(origin.run)
            else []
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(stages: Sequence[Json], origin: CardOrigin) -> str:
    base = _base(stages, origin)
    tags = ["alignloop", *dict.fromkeys(str(stage["stage"]) for stage in stages)]
    values = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": tags}
    if base and not base.startswith(("/", ".", "~")):
        values["base_model"] = base
    return f"---\n{dump_yaml(values)}---"


def _stages(tree: Json, seen: set[str] | None = None) -> Iterator[Json]:
    """The runs behind a model, the first stage first, each once."""
    seen = set() if seen is None else seen
    for parent in tree.get("parents", []):
        yield from _stages(parent, seen)
    if tree["path"] not in seen:
        seen.add(tree["path"])
        yield tree


def _base(stages: Sequence[Json], origin: CardOrigin) -> str:
    """The model that the first training stage started from, without the folders above it."""
    for stage in stages:
        found = (stage.get("inputs") or {}).get("model_name_or_path")
        name = found.get("path") if isinstance(found, Mapping) else None
        if name is None and not stage.get("missing"):
            name = _config(Path(str(stage["path"]))).get("model_name_or_path")
        if isinstance(name, str) and name:
            return Path(name).name if Path(name).is_absolute() or name.startswith((".", "~")) else name
    return "" if origin.run is not None else origin.model


def _config(path: Path) -> Json:
    try:
        return Run.open(path).config() or {}
    except (RunError, OSError, yaml.YAMLError):
        return {}


def _summary(stages: Sequence[Json], origin: CardOrigin) -> str:
    chain = " → ".join(dict.fromkeys(str(stage["stage"]) for stage in stages))
    base = _base(stages, origin)
    start = f"it started from {base}" if base else "its first weights were random or are not known"
    return f"{start}{f', through {chain}' if chain else ''}."


def _came_out(run: Run) -> str:
    """The sentences that the terminal and the report begin with."""
    return " ".join(_cell(line) for line in outcome_of(run.path).lines)


def _history(stages: Sequence[Json]) -> str:
    if not stages:
        return ""
    rows = ["| Run | Stage | Read | Seed | Fingerprint |", "| --- | --- | --- | --- | --- |"]
    for stage in stages:
        gone = (
            " (folder gone)" if stage.get("missing") else " (made anew since)" if stage.get("changed") else ""
        )
        rows.append(
            f"| {_cell(stage.get('name') or Path(str(stage['path'])).name)}{gone} | {_cell(stage['stage'])} "
            f"| {_data(stage)} | {_cell(stage.get('seed', ''))} | `{str(stage.get('fingerprint'))[:12]}` |"
        )
    return "\n".join(rows)


def _data(stage: Json) -> str:
    """Files and runs a stage read."""
    found = []
    for key, item in (stage.get("inputs") or {}).items():
        rows = f", {item['rows']:,} rows" if item.get("rows") else ""
        found.append(
            f"{key}: {_cell(Path(str(item['path'])).name)}{rows}, sha256 `{str(item['sha256'])[:12]}`"
        )
    names = [_cell(p.get("name") or Path(str(p["path"])).name) for p in stage.get("parents", [])]
    return "; ".join([*found, *([f"runs {', '.join(names)}"] if names else [])]) or "–"


def _settings(run: Run | None) -> str:
    config = {} if run is None else _config(run.path)
    rows = [f"| {key} | {_cell(config[key])} |" for key in _SETTINGS if config.get(key) is not None]
    code = {} if run is None else run.record.get("code", {})
    rows.append(f"| code | AlignLoop {_cell(code.get('version', '?'))}, `{str(code.get('sha256'))[:12]}` |")
    return "\n".join(["| Key | Value |", "| --- | --- |", *rows])


def _evaluations(run: Run) -> Iterator[str]:
    """Tables of the finished evaluations, beside the run, that read it."""
    here = run.path.resolve()
    for other in find_runs(run.path.parent, depth=1):
        record = other.record
        parents = (find_run(str(p["path"]), other.path) for p in record.get("parents", []))
        if (
            other.stage == "evaluate"
            and other.status == "finished"
            and here in {p.resolve() for p in parents if p}
        ):
            yield _evaluation(str(record.get("name") or other.path.name), other.results(Evaluated))


def _evaluation(title: str, results: Evaluated) -> str:
    count = "?" if results.num_prompts is None else _cell(results.num_prompts)
    rows = [f"**{_cell(title)}**, {count} prompts, 95 % intervals", ""]
    rows += ["| Metric | Before | After | Unit |", "| --- | --- | --- | --- |"]
    for name, row in results.metrics.items():
        values = _interval(row.before, row.before_interval), _interval(row.after, row.after_interval)
        rows.append(f"| {_cell(name)} | {values[0]} | {values[1]} | {_cell(row.unit)} |")
    for name, rate in (("win_rate", results.win_rate), ("win_rate_reward", results.win_rate_reward)):
        if rate is not None:
            rows.append(f"| {name} over before | – | {_interval(rate.value, rate.interval)} | share |")
    return "\n".join(rows)


def _interval(value: float | None, interval: Span | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" + ("" if interval is None else f" [{interval[0]:.4g}, {interval[1]:.4g}]")


def _use(template: ChatTemplate, name: str, gguf_name: str | None) -> str:
    ollama = "" if gguf_name is None else f"\nollama create {_slug(name)} -f Modelfile    # {gguf_name}"
    return (
        "## Use\n\n```\nalignloop chat .\nalignloop serve .                 # OpenAI's interface"
        f"{ollama}\n```\n\nMessages become text with the chat template `{template.name}` "
        f"(fingerprint `{template.fingerprint[:12]}`), the one of training; another one gives worse answers."
    )


def _slug(name: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name.lower()) or "model"


def _warnings(run: Run | None) -> list[str]:
    return [] if run is None else list(run.record.get("warnings") or [])


def _simulated(run: Run | None) -> bool:
    """Whether labels of this run or of one before it came from a simulated annotator."""
    return run is not None and trace([read_run(run.path, rows=())]).simulated(str(run.path.resolve()))


def _cell(value: object) -> str:
    """A value on one line of a table."""
    return " ".join(str(value).replace("|", "\\|").split())
