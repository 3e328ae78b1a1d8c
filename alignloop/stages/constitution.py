"""Constitutional AI, supervised part: answer, criticise and revise; the last revisions are imitated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from alignloop.config.ai import ConstitutionConfig
from alignloop.data.columns import write_records
from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import mean_interval, rate_interval
from alignloop.io import write_whole
from alignloop.judges.adviser import Adviser
from alignloop.judges.constitution.chain import Chain, ChainSettings, run_chains
from alignloop.judges.constitution.manners import has_boilerplate, is_refusal, shares_sentence
from alignloop.judges.constitution.principles import benign_prompts, load_constitution
from alignloop.records import Demonstration, Message, Prompt, Provenance, as_context, message_rows
from alignloop.runs import Run
from alignloop.runs.evaluation_results import BeforeAfter, Revised
from alignloop.stages import common
from alignloop.stages.answers import ANSWERS_FILE
from alignloop.stages.judging import account_row, open_adviser
from alignloop.stages.sample import read_prompts
from alignloop.stages.summaries import before_after

CHAINS_FILE = "chains.jsonl"


def constitution(config: ConstitutionConfig, run: Run) -> dict[str, Any]:
    """Let the model answer each prompt and revise its answer by principles, in rounds.

    Replies are cached by content, so a stopped stage goes on where it was.

    Args:
        config: the recipe; `dataset` holds prompts.
        run: the run folder; receives `chains.jsonl` (every chain whole, those of the harmless prompts
            included) and `data/rows.jsonl` with the demonstrations.

    Returns:
        Results for run.json: refusals, boilerplate and length of first and last answers, with intervals;
        needless refusals on harmless prompts.

    Raises:
        DataError: no answer came out.
        EngineError: the critic cannot be reached.
    """
    common.set_threads(config.num_threads)
    book = load_constitution(config.constitution)
    prompts = read_prompts(config, config.max_prompts, run)
    writer, critic = open_models(config)
    settings = ChainSettings(
        config.rounds,
        config.max_new_tokens,
        config.max_critique_tokens,
        config.temperature,
        config.seed,
        config.language,
    )
    benign = [(Message("user", text),) for text in benign_prompts()[: config.benign_prompts]]
    asked = [*(prompt.prompt for prompt in prompts), *benign]
    chains = run_chains(writer, critic, asked, book, settings)
    main, harmless = chains[: len(prompts)], chains[len(prompts) :]
    lines = [
        json.dumps({**chain.row(), "benign": k >= len(prompts)}, ensure_ascii=False) + "\n"
        for k, chain in enumerate(chains)
    ]
    write_whole(run.path / CHAINS_FILE, lines)
    rows = demonstrations(prompts, main, book.name, writer.name, critic.name)
    if not rows:
        raise DataError(
            f"none of {len(prompts)} prompts got an answer", file=str(config.dataset), reason="no_rows"
        )
    (run.path / "data").mkdir(exist_ok=True)
    write_records(run.path / ANSWERS_FILE, rows)
    show(run, main, writer.name)
    names = {writer.name: writer, critic.name: critic}
    found = Revised(
        num_prompts=len(prompts),
        metrics=measure(main, harmless),
        num_demonstrations=len(rows),
        rounds_without_revision=sum(bool(r.fault) for chain in main for r in chain.rounds),
    )
    return {
        **found.row(),
        "principles": principle_table(main),
        "account": [account_row(name, adviser.account) for name, adviser in names.items()],
        "origin": "ai",
    }


def open_models(config: ConstitutionConfig) -> tuple[Adviser, Adviser]:
    """Who writes the first answers, and who revises them: the same unless the recipe says otherwise."""
    shared: dict[str, Any] = {
        "dtype": config.dtype,
        "device": config.device,
        "seed": config.seed,
        "token_budget": config.token_budget,
    }
    writer = open_adviser({"model": config.model_name_or_path}, chat_template=config.template, **shared)
    return writer, writer if config.critic is None else open_adviser(config.critic, **shared)


def demonstrations(
    prompts: Sequence[Prompt], chains: Sequence[Chain], constitution: str, writer: str, critic: str
) -> list[Demonstration]:
    """(prompt, last revision) of every chain that has an answer."""
    rows = []
    for prompt, chain in zip(prompts, chains, strict=True):
        if chain.fault:
            continue
        details = {
            **prompt.provenance.details,
            "model": writer,
            "critic": critic,
            "constitution": constitution,
            "principles": ", ".join(r.principle for r in chain.rounds),
            "revisions": sum(not r.fault for r in chain.rounds),
        }
        where = Provenance(prompt.provenance.file, prompt.provenance.line, "ai", details)
        rows.append(Demonstration(as_context(prompt.prompt), chain.last, where))
    return rows


def measure(chains: Sequence[Chain], harmless: Sequence[Chain]) -> dict[str, BeforeAfter]:
    """First against last answers: refusals, boilerplate, length; needless refusals on harmless prompts."""
    metrics: dict[str, BeforeAfter] = {}
    for group, found in (("", chains), ("harmless_", harmless)):
        done = [chain for chain in found if not chain.fault]
        if len(done) >= 2:
            answers = [chain.initial for chain in done], [chain.last for chain in done]
            metrics |= {f"{group}{name}": row for name, row in manners(*answers).items()}
    return metrics


def manners(before: Sequence[str], after: Sequence[str]) -> dict[str, BeforeAfter]:
    """Rows of the evaluation table for answers to the same prompts, at least two.

    Args:
        before: answers of the one side.
        after: of the other.

    Returns:
        refusal_rate, boilerplate_rate, shared_sentences (shares, lower is better) and length (words).
    """
    rates = {
        "refusal_rate": [[is_refusal(text) for text in side] for side in (before, after)],
        "boilerplate_rate": [[has_boilerplate(text) for text in side] for side in (before, after)],
        "shared_sentences": [shares_sentence(side) for side in (before, after)],
    }
    rows: dict[str, BeforeAfter] = {}
    for name, sides in rates.items():
        found = [rate_interval([float(value) for value in side]) for side in sides]
        rows[name] = before_after(found, "share", higher=False)
    words = [mean_interval([float(len(text.split())) for text in side]) for side in (before, after)]
    return rows | {"length": before_after(words, "words", higher=None)}


def principle_table(chains: Sequence[Chain]) -> list[dict[str, Any]]:
    """How often each principle was drawn, and how many words its revisions added on average."""
    found: dict[str, list[int]] = {}
    for chain in chains:
        text = chain.initial
        for r in chain.rounds:
            found.setdefault(r.principle, []).append(len(r.revision.split()) - len(text.split()))
            text = r.revision
    return [
        {"principle": name, "rounds": len(added), "words_added": sum(added) / len(added)}
        for name, added in sorted(found.items())
    ]


def show(run: Run, chains: Sequence[Chain], model: str) -> None:
    """First and last answers for the report."""
    run.rewind(-1)
    for chain in chains[:50]:
        run.sample(
            step=0,
            prompt=message_rows(chain.prompt),
            completion_before=chain.initial,
            completion=chain.last,
            model=model,
        )
