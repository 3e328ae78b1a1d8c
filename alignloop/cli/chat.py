"""`alignloop chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from typing import TYPE_CHECKING, Annotated

import typer

from alignloop.cli.answer import REWARD, rewards_config
from alignloop.cli.options import DEVICE, TEMPLATE_KWARGS, template_choice
from alignloop.errors import UserError

if TYPE_CHECKING:
    from alignloop.model.sampling import SamplingParams
    from alignloop.records import Conversation
    from alignloop.serve.served import Policy

app = typer.Typer(add_completion=False)


@app.command()
def chat(
    model: Annotated[
        str, typer.Argument(metavar="RUN", help="run folder, model folder, adapter, .gguf file or name")
    ],
    system: Annotated[str, typer.Option(help="system message")] = "",
    compare: Annotated[str | None, typer.Option(help="another model that answers too")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 takes the most probable token")] = 0.8,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest answer")] = 512,
    seed: Annotated[int | None, typer.Option(min=0, help="the same answers every time")] = None,
    best_of: Annotated[int, typer.Option(min=1, help="answer with the best of this many samples")] = 1,
    reward: Annotated[list[str] | None, REWARD] = None,
    votes: Annotated[
        str, typer.Option(help="folder or label store for judgements; 'none' keeps none")
    ] = "votes",
    chat_template: Annotated[str, typer.Option(help="must render like the one of training")] = "tokenizer",
    chat_template_kwargs: Annotated[str, TEMPLATE_KWARGS] = "{}",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16")] = "auto",
    device: Annotated[str, DEVICE] = "auto",
) -> None:
    """Talk with a model; /help lists the commands."""
    from alignloop.model.sampling import SamplingParams
    from alignloop.serve.served import MIN_TEMPERATURE, open_policy
    from alignloop.serve.talk import Talk
    from alignloop.serve.votes import open_votes

    choice = template_choice(chat_template, chat_template_kwargs)

    def open_one(name: str) -> Policy:
        return open_policy(name, chat_template=choice, dtype=dtype, device=device)

    box = None if votes == "none" else open_votes(votes)
    drawn = 0.0 if temperature < MIN_TEMPERATURE else temperature
    params = SamplingParams(temperature=drawn, top_p=top_p, max_tokens=max_tokens)
    choose = chooser(reward or [], best_of, max_tokens) if best_of > 1 or reward else None
    talk = Talk(open_one(model), params, open_one, box, _say, system, seed=seed, choose=choose)
    if compare is not None:
        talk.other = open_one(compare)
    if sys.stdin.isatty():
        print(f"{talk.policy.name}: /help lists the commands, Ctrl-D ends.")
    talk.run(_lines())


def chooser(
    rewards: list[str], n: int, max_tokens: int
) -> Callable[[Policy, Conversation, SamplingParams], str]:
    """Answers with the best of n samples by the rewards."""
    from alignloop.records import Prompt
    from alignloop.stages.best_answers import best_answers
    from alignloop.stages.scoring import build_reward

    reward = build_reward(rewards_config(rewards), (), max_tokens=max_tokens)

    def choose(policy: Policy, prompt: Conversation, params: SamplingParams) -> str:
        asked = [Prompt(prompt)]
        return best_answers(policy.loaded, policy.encoder, asked, reward, params, n=n)[0].text

    return choose


def _say(text: str) -> None:
    """Shows text as it comes; a model's control characters must not steer the terminal."""
    from alignloop.report.samples import visible

    print(visible(text), end="", flush=True)


def _lines() -> Iterator[str]:
    """What the person types, with line editing in a terminal; or what comes through a pipe."""

    if isinstance(sys.stdin, TextIOWrapper):  # a damaged byte must not become a lone surrogate
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")
    try:
        if not sys.stdin.isatty():
            yield from sys.stdin
            return
        import readline  # noqa: F401  (input() edits lines through it)

        while True:
            yield input("> ")
    except UnicodeDecodeError as error:
        raise UserError(f"the input is not UTF-8 text ({error.reason})") from error
    except (EOFError, KeyboardInterrupt):
        print()
