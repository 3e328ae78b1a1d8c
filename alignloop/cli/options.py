"""Options that several commands have, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import typer

from alignloop.errors import UserError
from alignloop.foreign import loads

if TYPE_CHECKING:
    from alignloop.data.template_choice import TemplateChoice

TEMPLATE_KWARGS = typer.Option(
    help="""arguments for the chat template as JSON, such as '{"enable_thinking": false}'"""
)
DRY_RUN = typer.Option(
    False, "--dry-run", help="Print the resolved recipe and a summary of its data; run nothing."
)
RESUME = typer.Option(
    "auto", "--resume", help="auto goes on where it stopped; never starts anew; or a checkpoint folder."
)
NEW = typer.Option(
    False, "--new", help="Leave what is in the folder and write a numbered one beside it: runs/dpo-2."
)
OVERWRITE = typer.Option(
    False, "--overwrite", help="Delete a run of other settings that is in the folder; nothing but runs."
)


def help_if_bare(ctx: typer.Context) -> None:
    """Callback of a group of commands: called without one it shows its help, which is no error."""
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


class RunOptions(NamedTuple):
    """How a plan is carried out: what the options of `run`, `train` and their like say."""

    dry_run: bool = False
    resume: str = "auto"
    new: bool = False
    overwrite: bool = False

    @property
    def how(self) -> Literal["auto", "never"] | Path:
        """`--resume` as the pipeline takes it."""
        return self.resume if self.resume == "auto" or self.resume == "never" else Path(self.resume)

    def check(self) -> None:
        """Refuse options that contradict each other.

        Raises:
            UserError: two of them do.
        """
        if self.new and self.overwrite:
            raise UserError("--new keeps the earlier run and --overwrite deletes it; give one of them")


def template_choice(name: str, kwargs: str) -> TemplateChoice:
    """The template that a command names.

    Raises:
        UserError: the arguments are no JSON object.
    """
    from alignloop.data.template_choice import TemplateChoice

    try:
        found = loads(kwargs)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(
            f'--chat-template-kwargs {kwargs}: not a JSON object such as {{"enable_thinking": false}}'
        )
    return TemplateChoice(name, found)
