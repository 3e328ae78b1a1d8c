"""Several answers to each prompt."""

from __future__ import annotations

from typing import Any

from alignloop.config import CompletionConfig, RowsConfig, SampleConfig
from alignloop.data.columns import Dataset, read_records
from alignloop.errors import DataError
from alignloop.evaluation.bootstrap import mean_interval
from alignloop.model.load import load_model
from alignloop.model.sampling import SamplingParams
from alignloop.records import Prompt, Record, message_rows
from alignloop.runs import Run
from alignloop.runs.results import Answered, ends
from alignloop.stages import common
from alignloop.stages.answers import ANSWERS_FILE, answer_all, from_model, write_answers
from alignloop.stages.rows import note_dropped
from alignloop.stages.stopping import stop_requests
from alignloop.stages.unfinished import Kept


def sample(config: SampleConfig, run: Run) -> dict[str, Any]:
    """Draw `num_samples` answers to each prompt.

    Args:
        config: the recipe; `dataset` holds prompts (or any kind with prompts).
        run: the run folder; receives `data/rows.jsonl` with prompt, responses and provenance.

    Returns:
        Results for run.json.

    Raises:
        KeyboardInterrupt: a stop was asked for; the unfinished answers are saved.
    """
    common.set_threads(config.num_threads)
    prompts = read_prompts(config, config.max_prompts, run)
    loaded = load_model(config.model_name_or_path, dtype=config.dtype, device=config.device, seed=config.seed)
    encoder = common.inference_encoder(loaded, config.template)
    params = sampling_params(config, config.seed)
    with stop_requests("the next token") as stop:
        kept = Kept(run, run.path / "sampling", config.rollout_save_s, stop)
        answers = answer_all(
            loaded,
            encoder,
            prompts,
            params,
            n=config.num_samples,
            token_budget=config.token_budget,
            title="sample",
            kept=kept,
        )
    rows = [(from_model(p, loaded.name, config.seed), a) for p, a in zip(prompts, answers, strict=True)]
    write_answers(run.path / ANSWERS_FILE, rows)
    kept.close()
    for prompt, texts in rows[:50]:
        run.sample(
            step=0,
            prompt=message_rows(prompt.prompt),
            completion=texts[0],
            model=loaded.name,
        )
    words = [len(text.split()) for texts in answers for text in texts]
    owners = [place for place, texts in enumerate(answers) for _ in texts]
    interval = {}
    if len(prompts) > 1:  # prompts are the sampled unit: answers to one prompt are alike
        interval = {"mean_words_interval": ends(mean_interval(words, owners, seed=config.seed))}
    found = Answered(
        num_prompts=len(prompts),
        num_answers=len(words),
        mean_words=sum(words) / len(words),
        **interval,
        empty_answers=sum(count == 0 for count in words),
    )
    return found.row()


def read_prompts(config: RowsConfig, limit: int, run: Run) -> list[Prompt]:
    """Distinct prompts of a data set of any kind, the first `limit` (0: all).

    Raises:
        DataError: the data set holds raw documents.
    """
    data = read_records(config.dataset, columns=config.columns, strict=config.strict)
    note_dropped(run, "dataset", data.dropped)
    return distinct_prompts(data, limit)


def distinct_prompts(data: Dataset, limit: int) -> list[Prompt]:
    """The first `limit` (0: all) prompts of records of any kind, each once.

    Raises:
        DataError: they are raw documents.
    """
    if data.kind == "document":
        raise DataError("these are documents, which have no prompts to answer", file=", ".join(data.files))
    found = {record.prompt: _prompt(record) for record in reversed(data.records)}  # pyright: ignore
    prompts = list(reversed(found.values()))
    return prompts[:limit] if limit else prompts


def _prompt(record: Record) -> Prompt:
    if isinstance(record, Prompt):
        return record
    return Prompt(record.prompt, provenance=record.provenance)  # pyright: ignore[reportAttributeAccessIssue]


def sampling_params(config: CompletionConfig, seed: int) -> SamplingParams:
    """The recipe's sampling keys as parameters of the engine."""
    return SamplingParams(
        temperature=config.temperature,
        max_tokens=config.max_new_tokens,
        stop=config.stop,
        seed=seed,
        **config.bends,
    )
