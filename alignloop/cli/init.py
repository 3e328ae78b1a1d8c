"""`alignloop init` writes a recipe to start from."""

from __future__ import annotations

from pathlib import Path

import typer

from alignloop.errors import UserError

app = typer.Typer(add_completion=False)


@app.command()
def init(
    stage: str = typer.Argument("sft", help="The stage or method to write a recipe for."),
    file: str = typer.Argument("", help="Where to write it; STAGE.yaml if left out."),
) -> None:
    """Write a recipe with every key of a stage, explained, at its default."""
    from alignloop.config import starter_recipe

    text = starter_recipe(stage.replace("-", "_"))
    path = Path(file or f"{stage}.yaml")
    try:
        with path.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError as error:
        raise UserError(f"{path} exists already; give another file name") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error
    print(f"{path} written; fill in the keys at its top, then: alignloop run {path}")
