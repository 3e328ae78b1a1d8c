"""What a run came to, in Python and in a notebook: results, metrics, samples, report, its model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from alignloop.api.model import Model, load
from alignloop.api.table import Table, frame
from alignloop.errors import RunError
from alignloop.foreign import read_state
from alignloop.pipeline import PIPELINE_FILE
from alignloop.progress import format_seconds
from alignloop.report import write_report
from alignloop.report.figures import first_figures
from alignloop.report.render import Format
from alignloop.runs import Run

_HEAD_RESULTS = 8


class RunResult:
    """A run folder as a result. Every call that takes a path takes this object.

    Attributes:
        path: the folder.
        stage: name of the stage.
        record: run.json as it was when this object was made.
        results: what the stage measured, by name.
        warnings: what the stage warned of, one sentence each.
        model: folder of the finished model, for stages that train one.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        """Read a run folder.

        Args:
            path: the folder.

        Raises:
            RunError: no run there, or its run.json is damaged.
        """
        self._run = Run.open(fspath(path))
        self.path = self._run.path
        self.stage = self._run.stage
        self.record: dict[str, Any] = self._run.record
        self.results: dict[str, Any] = self.record.get("results", {})
        self.warnings: list[str] = self.record.get("warnings", [])
        self.model = self._run.model

    def __fspath__(self) -> str:
        return fspath(self.path)

    @property
    def status(self) -> str:
        """finished, failed, interrupted or running, as it is now."""
        return Run.open(self.path).status

    @property
    def config(self) -> dict[str, Any]:
        """The resolved keys of the run.

        Raises:
            RunError: recipe.yaml is missing or damaged.
        """
        return self._run.config()

    @property
    def metrics(self) -> Any:
        """metrics.jsonl, a row for each logged step: a pandas DataFrame, without pandas a `Table`."""
        return frame(self._run.metrics())

    @property
    def samples(self) -> Any:
        """samples.jsonl, what the stage generated: a pandas DataFrame, without pandas a `Table`."""
        return frame(self._run.samples())

    def report(self, *, format: Format = "html", output: str | Path | None = None) -> Path:
        """Write the run's report.

        Args:
            format: html, md or json.
            output: the file to write; report.html (.md, .json) in the folder by default.

        Returns:
            The file.
        """
        return write_report(self.path, format=format, output=output)

    def load(self, **options: Any) -> Model:
        """Load the run's model, once; the options are those of `alignloop.load`.

        Raises:
            ModelError: the run has no model.
        """
        if not hasattr(self, "_model"):
            self._model = load(self.path, **options)
        return self._model

    def generate(self, prompts: Any, **options: Any) -> Any:
        """Answer with the run's model; the arguments are those of `Model.generate`."""
        return self.load().generate(prompts, **options)

    def __repr__(self) -> str:
        """What the run is, its first figures, and where things are."""
        return "\n".join([self._title(), *(f"  {name:24} {text}" for name, text in self._rows())])

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{escape(n)}</th><td>{escape(t)}</td></tr>" for n, t in self._rows())
        return f"<p><b>{escape(self._title())}</b></p><table><tbody>{rows}</tbody></table>"

    def _title(self) -> str:
        seconds = self.record.get("duration_s")
        took = f" in {format_seconds(seconds)}" if isinstance(seconds, int | float) else ""
        return f"{self.stage}: {self.status}{took}, {self.path}"

    def _rows(self) -> list[tuple[str, str]]:
        rows = first_figures(self.results, _HEAD_RESULTS)
        rows += [("model", str(self.model))] if self.model.is_dir() else []
        return rows + [("warning", text) for text in self.warnings]


class PipelineResult(Mapping[str, RunResult]):
    """The runs of a recipe of several stages, by the stages' names, in their order.

    Attributes:
        path: the pipeline's folder.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        """Read a pipeline folder.

        Args:
            path: the folder.

        Raises:
            RunError: no pipeline there, or its pipeline.json is damaged.
        """
        self.path = Path(path)
        remedy = "run the recipe again"
        record = read_state(self.path / PIPELINE_FILE, dict[str, Any], remedy=remedy)
        folders = [(str(stage["name"]), self.path / str(stage["path"])) for stage in record["stages"]]
        self._runs = {name: RunResult(folder) for name, folder in folders if (folder / "run.json").is_file()}

    def __fspath__(self) -> str:
        return fspath(self.path)

    def __getitem__(self, name: str) -> RunResult:
        return self._runs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """Each run's results by the stage's name."""
        return {name: run.results for name, run in self.items()}

    def report(self, *, format: Format = "html", output: str | Path | None = None) -> Path:
        """Write the pipeline's report; the arguments are those of `RunResult.report`."""
        return write_report(self.path, format=format, output=output)

    def table(self) -> Table:
        """One row for each stage: its status, its time, its first figures, its folder."""
        rows = []
        for name, run in self.items():
            seconds = run.record.get("duration_s") or 0.0
            found = ", ".join(f"{label} {text}" for label, text in first_figures(run.results, 3))
            rows.append(
                {"stage": name, "status": run.status, "time": format_seconds(seconds), "results": found}
            )
        return Table(rows)

    def __repr__(self) -> str:
        """The stages, a line each."""
        return f"{self.path}\n{self.table()!r}"

    def _repr_html_(self) -> str:
        return f"<p><b>{escape(str(self.path))}</b></p>{self.table()._repr_html_()}"


def open_run(path: str | PathLike[str]) -> RunResult | PipelineResult:
    """Open an existing run folder or pipeline folder, in whatever state it is.

    Raises:
        RunError: neither is there.
    """
    folder = Path(path)
    if (folder / PIPELINE_FILE).is_file():
        return PipelineResult(folder)
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder")
    return RunResult(folder)
