"""`alignloop answer`: the best of n answers to one prompt or to a file of prompts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alignloop.cli.options import DEVICE, TEMPLATE_KWARGS, template_choice
from alignloop.errors import ConfigError, UserError

if TYPE_CHECKING:
    from alignloop.config.reward_models import RewardsConfig
    from alignloop.records import Prompt
    from alignloop.stages.best_answers import BestAnswer

REWARD = typer.Option(
    help="what chooses: a verifier (constraints, math, regex, json_schema, exact), a penalty (length, "
    "repetition, overlong), a reward model's run, module:function, or a recipe's {judge: …, weight: …}; "
    "several are added, several reward models make an ensemble"
)

app = typer.Typer(add_completion=False)


@app.command()
def answer(
    model: Annotated[str, typer.Argument(metavar="RUN", help="run folder, model folder, adapter or name")],
    prompt: Annotated[str, typer.Argument(help="what to answer; or use --prompts")] = "",
    reward: Annotated[list[str] | None, REWARD] = None,
    prompts: Annotated[str, typer.Option(help="a data set of any kind with prompts")] = "",
    n: Annotated[int, typer.Option("-n", "--best-of", min=1, help="answers to choose from")] = 8,
    output: Annotated[str, typer.Option(help="write rows to this .jsonl file")] = "",
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the most probable token")] = 1.0,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest answer")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="another one gives other answers")] = 0,
    chat_template: Annotated[str, typer.Option(help="must render like the one of training")] = "tokenizer",
    chat_template_kwargs: Annotated[str, TEMPLATE_KWARGS] = "{}",
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16")] = "auto",
    device: Annotated[str, DEVICE] = "auto",
) -> None:
    """Answer with the best of n samples by a reward.

    One prompt prints its best answer. A file of prompts gives rows {prompt, completion, provenance, rewards},
    with the rewards of all n, which can be trained on.
    """
    from alignloop.io import write_whole
    from alignloop.model.sampling import SamplingParams
    from alignloop.serve.served import open_policy
    from alignloop.stages.best_answers import best_answers
    from alignloop.stages.scoring import build_reward

    if bool(prompt) == bool(prompts):
        raise UserError("give either a prompt or --prompts FILE")
    asked = asked_prompts(prompt, prompts)
    choice = template_choice(chat_template, chat_template_kwargs)
    scorer = build_reward(rewards_config(reward or []), asked, max_tokens=max_tokens)
    policy = open_policy(model, chat_template=choice, dtype=dtype, device=device)
    params = SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed)
    found = best_answers(policy.loaded, policy.encoder, asked, scorer, params, n=n)
    lines = [json.dumps(best.row(policy.name), ensure_ascii=False) + "\n" for best in found]
    if output:
        write_whole(Path(output), lines)
    elif prompt:
        print(found[0].text)
    else:
        sys.stdout.writelines(lines)
    print(told(found, n), file=sys.stderr)


def asked_prompts(prompt: str, file: str) -> list[Prompt]:
    """The one prompt, or those of a file."""
    from alignloop.data.columns import read_records
    from alignloop.records import Message, Prompt
    from alignloop.stages.sample import distinct_prompts

    if prompt:
        return [Prompt((Message("user", prompt),))]
    data = read_records(file)
    if data.dropped:
        print(f"warning: {len(data.dropped)} rows dropped; first: {data.dropped[0]}", file=sys.stderr)
    return distinct_prompts(data, 0)


def rewards_config(rewards: list[str]) -> RewardsConfig:
    """The rewards as a recipe declares them.

    Raises:
        ConfigError: none, or one that a recipe could not have.
    """
    from pydantic import ValidationError

    from alignloop.config.reward_models import RewardsConfig

    if not rewards:
        raise ConfigError("--reward is missing: name a verifier, a reward model's run or module:function")
    try:
        return RewardsConfig.model_validate({"rewards": [reward_term(text) for text in rewards]})
    except ValidationError as error:
        raise ConfigError([f"--reward: {fault['msg']}" for fault in error.errors()]) from error


def reward_term(text: str) -> Any:
    """A reward by its shortest name, or as a recipe writes it."""
    import yaml

    from alignloop.config.aliases import named_reward
    from alignloop.config.recipe_file import read_yaml

    if text.lstrip().startswith("{"):
        try:
            return read_yaml(text)
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(f"--reward {text}: not readable as YAML") from error
    return named_reward(text)


def told(found: list[BestAnswer], n: int) -> str:
    """What choosing was worth, in a sentence."""
    from alignloop.evaluation.best_of_n import best_of_n_kl
    from alignloop.stages.best_answers import reward_curve

    rewards = [best.rewards for best in found]
    far = f"at most {best_of_n_kl(n):.2f} nats from the model"
    if len(found) == 1:
        return f"reward {found[0].reward:.4g}, mean of the {n} {sum(rewards[0]) / n:.4g}; {far}"
    curve = ", ".join(
        f"{p['reward']:.4g} [{p['low']:.4g}, {p['high']:.4g}] of {p['n']:.0f}"
        for p in reward_curve(rewards, n)
    )
    return f"{len(found)} prompts, reward of the best: {curve}; {far}"
