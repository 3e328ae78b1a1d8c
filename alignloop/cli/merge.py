"""`alignloop merge`: an adapter merged into its base."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from alignloop.cli.ending import print_next

app = typer.Typer(add_completion=False)


@app.command()
def merge(
    model: Annotated[str, typer.Argument(metavar="RUN", help="run or adapter folder")],
    to: Annotated[Path | None, typer.Option(help="folder to make; RUN-merged if not given")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Merge a LoRA adapter into its base and check that the answers stay the same."""
    from alignloop.serve.merge import merge as merged

    target = to or Path(f"{model.rstrip('/')}-merged")
    difference = merged(model, target, device=device)
    typer.echo(f"{target}: logits differ by {difference:.1e} of the largest")
    place = shlex.quote(str(target))
    print_next(
        [(f"alignloop chat {place}", "talk to it"), (f"alignloop export {place}", "for other programs")]
    )
