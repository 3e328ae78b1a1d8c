"""The command line. Each command lives in its own module, which is imported when it is called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

import alignloop
from alignloop.errors import AlignLoopError, ConfigError


class Lazy(NamedTuple):
    """A command: `module` of this package and the name of the typer app in it."""

    module: str
    help: str
    app: str = "app"


COMMANDS: dict[str, Lazy] = {
    "quickstart": Lazy("run", "The whole loop, small, offline.", "quickstart_app"),
    "run": Lazy("run", "Run a recipe of one or many stages; running it again goes on where it stopped."),
    "train": Lazy("run", "Train with one method: pretrain, sft, reward, dpo, kto, …", "train_app"),
    "sample": Lazy("run", "Sample several answers per prompt.", "sample_app"),
    "evaluate": Lazy("run", "Compare a model with the one it started from.", "evaluate_app"),
    "compare": Lazy("compare", "Compare any number of models."),
    "reward-bench": Lazy("run", "Examine a reward model on judged rows.", "reward_bench_app"),
    "best-of-n": Lazy("run", "Best of n answers by a reward model, and training on them.", "best_of_n_app"),
    "audit": Lazy("run", "Did a run become better, or better at fooling its reward?", "audit_app"),
    "label": Lazy("label", "A page on which people judge answers."),
    "judge": Lazy("run", "Judge answers with a model.", "judge_app"),
    "constitution": Lazy("run", "Critique and revise answers by principles.", "constitution_app"),
    "loop": Lazy("run", "Train again whenever enough new labels have arrived.", "loop_app"),
    "data": Lazy("data", "Check, show, convert, split and filter data files."),
    "recipes": Lazy("recipes", "List the recipes that come with AlignLoop."),
    "init": Lazy("recipes", "Write a recipe to start from.", "init_app"),
    "schema": Lazy("recipes", "List the keys of a stage.", "schema_app"),
    "doctor": Lazy("doctor", "Check this machine, or a recipe."),
    "runs": Lazy("runs", "List run folders."),
    "watch": Lazy("watch", "Follow a run in the terminal."),
    "plot": Lazy("report", "Plot the metrics of runs.", "plot_app"),
    "report": Lazy("report", "Write the report of a run or pipeline as one HTML file."),
    "answer": Lazy("answer", "Answer with the best of n samples by a reward."),
    "chat": Lazy("chat", "Talk with a model."),
    "serve": Lazy("serve", "Serve a model with an OpenAI-compatible API."),
    "merge": Lazy("export", "Merge an adapter into its base.", "merge_app"),
    "export": Lazy("export", "Write a model for other programs."),
}
"""Commands in the order of the help; one whose module is not there is left out."""

EXIT_INTERRUPTED = 130


class LazyGroup(TyperGroup):
    """Imports a command's module when the command is called, and turns errors into messages."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the commands that are there, in the table's order."""
        here = Path(__file__).parent
        return [
            name
            for name, lazy in COMMANDS.items()
            if (here / f"{lazy.module}.py").is_file() or (here / lazy.module).is_dir()
        ]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """For listing and completion: a command of that name with its help, nothing imported."""
        if cmd_name not in self.list_commands(ctx):
            return None
        stub = typer.Typer(add_completion=False)
        stub.command(cmd_name, help=COMMANDS[cmd_name].help)(lambda: None)
        return typer.main.get_command(stub)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The real command, its module imported."""
        self.commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        name, stub, rest = super().resolve_command(ctx, args)
        if name is None or stub is None:
            return name, stub, rest
        lazy = COMMANDS[name]
        module = importlib.import_module(f"alignloop.cli.{lazy.module}")
        command = typer.main.get_command(getattr(module, lazy.app))
        command.help = command.help or lazy.help
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what goes wrong on purpose is a message and an exit code."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except AlignLoopError as error:
            raise typer.Exit(_report(error)) from error
        except KeyboardInterrupt as error:
            notes = getattr(error, "__notes__", ())
            print("", "interrupted", *(f"  {note}" for note in notes), sep="\n", file=sys.stderr)
            raise typer.Exit(EXIT_INTERRUPTED) from error
        except BrokenPipeError as error:
            # The reader has gone; Python would complain once more when it flushes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        except OSError as error:
            from alignloop.io import FULL, disk_error  # late: `--help` imports nothing that is slow

            # Of a write that no stage watches, such as this command's own output.
            told = disk_error(error, error.filename or "the output") if error.errno in FULL else None
            if told is None:
                raise
            print(f"error: {told}", file=sys.stderr)
            _print_notes(error)
            raise typer.Exit(told.exit_code) from error
        return result


def _report(error: AlignLoopError) -> int:
    findings = error.findings if isinstance(error, ConfigError) else [str(error)]
    for finding in findings:
        print(f"error: {finding}", file=sys.stderr)
    _print_notes(error)
    return error.exit_code


def _print_notes(error: BaseException) -> None:
    for note in getattr(error, "__notes__", ()):
        print(f"  {note}", file=sys.stderr)


app = typer.Typer(
    cls=LazyGroup,
    help=(
        "AlignLoop: the whole loop of LLM post-training, exact and fast on one machine.\n\n"
        "Begin with `alignloop quickstart --model tiny`. With data of your own: `alignloop data check FILE`, "
        "`alignloop init dpo`, `alignloop run dpo.yaml`."
    ),
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"alignloop {alignloop.__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    ctx: typer.Context,
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of `alignloop`."""
    # A cluster or a service manager stops a job with SIGTERM: same as Ctrl-C, a checkpoint and a clean end.
    signal.signal(signal.SIGTERM, _interrupt)
    # A script's background job ignores SIGINT, and so would its terminal: who sends one to it means it.
    signal.signal(signal.SIGINT, _interrupt)
    # What libraries deprecate among themselves is nothing that a person at a terminal can act on.
    warnings.simplefilter("ignore", FutureWarning)
    app()
