"""`alignloop export` and `alignloop merge`: a policy for other programs, an adapter merged into its base."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from alignloop.cli.ending import print_next
from alignloop.cli.options import DEVICE, TEMPLATE_KWARGS, template_choice
from alignloop.errors import UserError

app = typer.Typer(add_completion=False)
merge_app = typer.Typer(add_completion=False)


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(metavar="RUN", help="run folder, model folder, adapter, .gguf file or name")
    ],
    to: Annotated[Path | None, typer.Option(help="folder to make; RUN-export if not given")] = None,
    name: Annotated[str | None, typer.Option(help="of the model; the run's if not given")] = None,
    dtype: Annotated[str, typer.Option(help="of the weights: float32, bfloat16 or float16")] = "float32",
    gguf: Annotated[bool, typer.Option(help="write a GGUF file and a Modelfile too")] = False,
    gguf_type: Annotated[str, typer.Option(help="of the GGUF's matrices: f32, f16, bf16 or q8_0")] = "f16",
    chat_template: Annotated[str, typer.Option(help="must render like the one of training")] = "tokenizer",
    chat_template_kwargs: Annotated[str, TEMPLATE_KWARGS] = "{}",
) -> None:
    """Write a policy as a Hugging Face folder with its chat template and a card, and as GGUF for Ollama."""
    from typing import get_args

    from alignloop.serve.export import Dtype, Storage
    from alignloop.serve.export import export as exported

    for option, value, known in (
        ("--dtype", dtype, get_args(Dtype)),
        ("--gguf-type", gguf_type, get_args(Storage)),
    ):
        if value not in known:
            raise UserError(f"{option} is one of {', '.join(known)}, not '{value}'")
    done = exported(
        model,
        to or Path(f"{model.rstrip('/')}-export"),
        name=name,
        dtype=dtype,  # pyright: ignore[reportArgumentType]
        gguf=gguf_type if gguf else None,  # pyright: ignore[reportArgumentType]
        chat_template=template_choice(chat_template, chat_template_kwargs),
    )
    typer.echo(f"{done.folder}: {', '.join(sorted(path.name for path in done.folder.iterdir()))}")
    if done.gguf is not None and done.same_tokens is not None:
        typer.echo(f"{done.gguf.name} read again: {done.same_tokens:.0%} of greedy tokens as the model's")
    place = shlex.quote(str(done.folder))
    print_next([(f"alignloop chat {place}", "talk to it"), (f"alignloop serve {place}", "serve it")])


@merge_app.command()
def merge(
    model: Annotated[str, typer.Argument(metavar="RUN", help="run or adapter folder")],
    to: Annotated[Path | None, typer.Option(help="folder to make; RUN-merged if not given")] = None,
    device: Annotated[str, DEVICE] = "auto",
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
