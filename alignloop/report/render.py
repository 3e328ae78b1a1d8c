"""Reports as one self-contained HTML file: no request, no font, no script but its own.

Completions are hostile input. Every text is escaped, and a content-security-policy that names the
hash of the one style sheet and the one script keeps anything else from running.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jinja2
from markupsafe import Markup

from alignloop.errors import RunError
from alignloop.io import write_whole
from alignloop.report.comparison import RATING_COLUMNS, WIN_COLUMNS
from alignloop.report.document import as_json, as_markdown
from alignloop.report.figures import MeasureLine
from alignloop.report.folder import PipelineFolder, is_pipeline, read_pipeline, read_run
from alignloop.report.lineage_picture import draw
from alignloop.report.names import name_of
from alignloop.report.plot import interval_plot, line_plot
from alignloop.report.scale import rounded
from alignloop.report.view import ReportView, view_pipeline, view_run

Format = Literal["html", "md", "json"]
Source = str | Path | Sequence[str | Path]
"""A run folder, a pipeline folder, or several run folders."""


def render_run(path: str | Path) -> str:
    """The HTML report of one run folder.

    Raises:
        RunError: the path is not a run folder.
    """
    return _html(view_run(read_run(path)))


def render_pipeline(paths: str | Path | Sequence[str | Path]) -> str:
    """The HTML report of a pipeline folder, or of run folders in the order given.

    Raises:
        RunError: a path is not what it should be, or none is given.
    """
    return _html(_pipeline_view(paths))


def render(path: Source, *, format: Format = "html") -> str:
    """The report of a run folder, a pipeline folder, or several run folders side by side.

    Args:
        path: the folder or folders.
        format: html, md (Markdown) or json.

    Returns:
        The whole document.

    Raises:
        RunError: the path is neither.
    """
    if isinstance(path, str | Path) and not is_pipeline(Path(path)):
        view = view_run(read_run(path))
    else:
        view = _pipeline_view(path)
    if format == "json":
        return json.dumps(as_json(view), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    return as_markdown(view) if format == "md" else _html(view)


def write_report(path: Source, *, format: Format = "html", output: str | Path | None = None) -> Path:
    """Write the report of a run or pipeline folder, or of several runs; a reader never sees half a file.

    Args:
        path: the folder or folders.
        format: html, md or json.
        output: the file to write, instead of report.html (.md, .json) in the folder; for several runs
            instead of comparison.html in the first one.

    Returns:
        The file written.

    Raises:
        RunError: the path is no run, or the file cannot be written.
    """
    place = Path(path) / "report" if isinstance(path, str | Path) else Path(path[0]) / "comparison"
    target = Path(output) if output is not None else place.with_suffix(f".{format}")
    return write_text(target, render(path, format=format))


def write_text(target: Path, content: str) -> Path:
    """Write a file whole or not at all.

    Raises:
        DiskError: it cannot be written.
    """
    write_whole(target, content)
    return target


def _pipeline_view(paths: str | Path | Sequence[str | Path]) -> ReportView:
    if isinstance(paths, str | Path):
        return view_pipeline(read_pipeline(paths))
    if not paths:
        raise RunError("no run folder to report on")
    return view_pipeline(PipelineFolder("Runs", "", tuple(read_run(path) for path in paths), ()))


def _html(view: ReportView) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("alignloop.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"rounded": rounded, "percent": _percent, "name_of": name_of}
    environment.globals |= {
        "line_plot": line_plot,
        "interval_plot": _intervals,
        "win_columns": WIN_COLUMNS,
        "rating_columns": RATING_COLUMNS,
    }
    style, script = (environment.loader.get_source(environment, n)[0] for n in ("style.css", "script.js"))  # type: ignore[union-attr]
    return environment.get_template("report.html.jinja").render(
        view=view,
        graph=draw(view.lineage, emphasised=view.own),
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _intervals(measure: MeasureLine) -> Markup:
    """The picture of a metric's two values; its title says them with their intervals."""
    said: list[str] = []
    drawn: dict[str, tuple[float, float, float]] = {}
    for side, value, ends in measure.sides:
        if value is not None:
            low, high = ends or (value, value)
            drawn[side] = low, value, high
            interval = f" ({measure.shown(low)} to {measure.shown(high)})" if ends else ""
            said.append(f"{side} {measure.shown(value)}{interval}")
    title = f"{measure.name}: {', '.join(said)}"
    return interval_plot(drawn.get("before"), drawn.get("after"), title=title)
