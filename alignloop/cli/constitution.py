"""`alignloop constitution`: critique and revision by principles; the stage `constitution` run by itself."""

from __future__ import annotations

import typer

from alignloop.cli.options import DRY_RUN, NEW, OVERWRITE, RESUME, RunOptions
from alignloop.cli.train import WORDS, run_stage

app = typer.Typer(add_completion=False)


@app.command()
def constitution(
    words: list[str] = WORDS,
    dry_run: bool = DRY_RUN,
    resume: str = RESUME,
    new: bool = NEW,
    overwrite: bool = OVERWRITE,
    show: str = typer.Option("", "--show", help="Check and print a constitution: default, or a .yaml file."),
) -> None:
    """Answer, criticise and revise by principles. `alignloop schema constitution` lists the settings."""
    if not show:
        run_stage("constitution", words or [], RunOptions(dry_run, resume, new, overwrite))
        return
    from alignloop.feedback.constitution.principles import load_constitution

    book = load_constitution(show)
    print(f"{book.name}: {len(book.principles)} principles in {', '.join(book.languages)}")
    for principle in book.principles:
        for language, words_ in principle.wordings.items():
            print(f"  {principle.name} ({language}): {words_.prefer}")
