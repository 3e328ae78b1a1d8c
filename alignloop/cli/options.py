"""Options that several commands have, and what they mean."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import typer

from alignloop.errors import UserError
from alignloop.foreign import loads

if TYPE_CHECKING:
    from alignloop.data.template_choice import TemplateChoice

TEMPLATE_KWARGS = typer.Option(
    help="""arguments for the chat template as JSON, such as '{"enable_thinking": false}'"""
)
DEVICE = typer.Option(help="auto, cpu or cuda")
OVERRIDES = typer.Argument(None, metavar="[KEY=VALUE]...", help="Settings that replace the recipe's.")
WORDS = typer.Argument(
    None,
    metavar="[RECIPE] [KEY=VALUE]...",
    help="A recipe (the one that comes with AlignLoop if left out), and settings that replace the recipe's.",
)
_RUN_OPTIONS: dict[str, tuple[type, Any]] = {
    "dry_run": (
        bool,
        typer.Option(
            False, "--dry-run", help="Print the resolved recipe and a summary of its data; run nothing."
        ),
    ),
    "resume": (
        str,
        typer.Option(
            "auto", help="auto goes on where it stopped; never starts anew; or a checkpoint folder."
        ),
    ),
    "new": (
        bool,
        typer.Option(
            False,
            "--new",
            help="Leave what is in the folder and write a numbered one beside it: runs/dpo-2.",
        ),
    ),
    "overwrite": (
        bool,
        typer.Option(
            False,
            "--overwrite",
            help="Delete a run of other settings that is in the folder; nothing but runs.",
        ),
    ),
}
"""Options of every command that runs stages: fields of `RunOptions` with their types."""


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


def takes_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command with --dry-run, --resume, --new and --overwrite.

    Args:
        command: a function with a keyword `options`, which receives them as `RunOptions`.

    Returns:
        The function for typer, with an argument for each option in the place of `options`.
    """

    @functools.wraps(command)
    def called(**words: Any) -> None:
        options = RunOptions(**{name: words.pop(name) for name in _RUN_OPTIONS})
        command(**words, options=options)

    signature = inspect.signature(command, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "options"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind)
        for name, (kind, option) in _RUN_OPTIONS.items()
    ]
    called.__signature__ = signature.replace(parameters=[*own, *added])  # pyright: ignore[reportAttributeAccessIssue]
    return called


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
