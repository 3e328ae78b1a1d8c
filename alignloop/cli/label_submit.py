"""`alignloop label submit`: judgements made elsewhere go into a label project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from alignloop.feedback.submit import Sent

MOST_PLACES = 3
"""Rows named for each reason."""


def submit(
    file: Annotated[str, typer.Argument(help="Preferences, rankings, ratings or labels, in any known form.")],
    to: Annotated[str, typer.Argument(help="Invitation link of a running server, or a label folder.")],
    annotator: Annotated[
        str | None, typer.Option(help="For a folder: whose judgements these are; invited if new.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="field=column where names differ; repeatable")
    ] = None,
    project: Annotated[str | None, typer.Option(help="Project, where the folder holds several.")] = None,
    database: Annotated[
        str | None,
        typer.Option(
            help="postgresql://… instead of the folder's own SQLite file.", envvar="ALIGNLOOP_DATABASE"
        ),
    ] = None,
) -> None:
    """Send judgements of a project's items that were made elsewhere; again: only what is missing."""
    from alignloop.cli.data import mapping
    from alignloop.errors import UserError
    from alignloop.feedback import submit as submitting
    from alignloop.feedback.folder import opened
    from alignloop.feedback.submit_http import RemoteDesk

    task, judgements = submitting.read_judgements(file, columns=mapping(column))
    if "://" in to:
        if annotator is not None or project is not None:
            raise UserError(
                "an invitation link names annotator and project; leave --annotator and --project out"
            )
        desk = RemoteDesk(to)
        sent = submitting.submit(task, judgements, desk)
        desk.close()
    else:
        if annotator is None:
            raise UserError("say whose judgements these are: --annotator NAME")
        with opened(Path(to), database) as store:
            found = store.project(project)
            who = submitting.annotator_named(store, found, annotator)
            local = submitting.LocalDesk(store, found, who)
            sent = submitting.submit(task, judgements, local)
            local.close()
    _tell(len(judgements), sent)


def _tell(count: int, sent: Sent) -> None:
    typer.echo(f"{count} judgements: {sent.stored} stored, {sent.there} were there already")
    for reason, number in sent.left_out.items():
        places = sent.places[reason]
        more = ", …" if number > MOST_PLACES else ""
        typer.echo(f"  left out: {number} {reason} ({', '.join(places[:MOST_PLACES])}{more})")
