"""`alignloop serve`: an OpenAI-compatible server over one or several policies."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from alignloop.cli.options import DEVICE, TEMPLATE_KWARGS, template_choice

app = typer.Typer(add_completion=False)


@app.command()
def serve(
    models: Annotated[
        list[str], typer.Argument(metavar="RUN…", help="run folders, model folders, .gguf files or names")
    ],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8000,
    name: Annotated[
        list[str] | None, typer.Option(help="what requests call the model; once for each model")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="ALIGNLOOP_API_KEY", help="ask for this key", show_default=False)
    ] = None,
    chat_template: Annotated[str, typer.Option(help="must render like the one of training")] = "tokenizer",
    chat_template_kwargs: Annotated[str, TEMPLATE_KWARGS] = "{}",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16")] = "auto",
    device: Annotated[str, DEVICE] = "auto",
    max_tokens: Annotated[int, typer.Option(min=1, help="longest completion")] = 1024,
    max_choices: Annotated[int, typer.Option(min=1, help="completions of one request")] = 32,
    max_open: Annotated[int, typer.Option(min=1, help="requests running or waiting")] = 256,
    max_body: Annotated[int, typer.Option(min=1, help="bytes of one request")] = 1 << 20,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds for one request")] = 600.0,
    token_budget: Annotated[int, typer.Option(min=2, help="tokens stored at once")] = 16384,
    votes: Annotated[
        str, typer.Option(help="folder or label store for the chat page's votes; 'none' keeps none")
    ] = "votes",
    allow_host: Annotated[list[str] | None, typer.Option(help="a host name to answer to")] = None,
) -> None:
    """Serve policies: OpenAI's interface under /v1, a chat page at /, /health and /metrics."""
    from pathlib import Path

    from alignloop.errors import UserError
    from alignloop.serve.app import create_app
    from alignloop.serve.served import RequestLimits, open_policy
    from alignloop.serve.votes import open_votes
    from alignloop.web.server import LOCAL_HOSTS, answered_hosts, listen, run, url_of

    choice = template_choice(chat_template, chat_template_kwargs)
    names = name or [Path(model).resolve().name for model in models]
    if len(names) != len(models) or len(set(names)) != len(names):
        raise UserError(f"give each of the {len(models)} models a --name of its own")
    box = None if votes == "none" else open_votes(votes)
    # Before the models are loaded, which takes long: a taken port is told at once.
    listening = listen(host, port)
    policies = [
        open_policy(model, name=one, chat_template=choice, dtype=dtype, device=device)
        for model, one in zip(models, names, strict=True)
    ]
    limits = RequestLimits(max_tokens, max_choices, max_open, max_body, timeout, token_budget)
    if host not in LOCAL_HOSTS and api_key is None:
        print("Anybody who can reach this address can use it; set --api-key.", file=sys.stderr)
    hosts = answered_hosts(host, allow_host or ())
    application = create_app(policies, limits=limits, api_key=api_key, allowed_hosts=hosts, votes=box)
    print(f"{', '.join(names)}: listening on {url_of(*listening.getsockname()[:2])}/v1", flush=True)
    run(application, listening, body_s=limits.seconds)
