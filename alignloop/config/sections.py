"""Keys that stages share, in sections that are combined by inheritance: models, rows, training, sampling.

Keys have the names TRL gives them. No default depends on another field; `null` is not a default of
anything that could be a number. What data and model decide is `auto` and becomes a number before a run
begins, in one place: `config.defaults`. A key has one meaning and one description in all stages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Required

from pydantic import ConfigDict, Field, model_validator
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from alignloop.config.checking import RefusedKey
from alignloop.config.fields import (
    AUTO,
    AutoRate,
    AutoShare,
    AutoSize,
    ModelPath,
    Path,
    Section,
    StageConfig,
    TemplateConfig,
    conflict,
    free,
    longer,
)


class DataSource(TypedDict, total=False):
    """A source with a weight (how often each row is used in one pass) and what has to be said to read it."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # pyright: ignore[reportGeneralTypeIssues]

    path: Required[Path]
    weight: Annotated[float, Field(gt=0)]
    rows: Annotated[int, Field(ge=1)]
    split: str
    name: str
    data_dir: str
    revision: str
    score_range: tuple[float, float]


if TYPE_CHECKING:  # Python calls take rows too: see `config.given`
    Dataset = Any
else:
    Dataset = Path | DataSource | tuple[Path | DataSource, ...]
"""One source (`rows.jsonl`, `rows.jsonl#500`, a run folder, a hub id), or several to be mixed."""

DATASET = (
    "file, `file#500` for its first 500 rows, pattern (`data/*.jsonl`), folder, run folder, hub id, "
    "{path: …, weight: …, rows: …, split: …, name: …, data_dir: …, revision: …, score_range: [1, 10]}, "
    "or a list of these"
)


KEPT_ANSWERS = "the answers that were sampled"
"""What evaluations go on from: answers are cached by model and prompt."""
ROLLOUT_SAVE_S = "seconds between saves of an unfinished sampling; 0 saves one only on Ctrl-C"


class ModelConfig(TemplateConfig):
    """The model a stage starts from and how a conversation becomes text."""

    model_name_or_path: ModelPath = Field(
        default="smollm2-135m-instruct",
        description="run folder, model or adapter folder, .gguf, hub id, `smollm2-135m-instruct` or `tiny`",
    )


class RowsConfig(Section):
    """Which rows a stage reads."""

    dataset: Dataset = Field(description=f"rows to read: {DATASET}")
    columns: dict[str, str] = Field(
        default={}, description="column names where they are not recognised, as field: column"
    )
    strict: bool = Field(
        default=False, description="the first unusable row is an error instead of being dropped"
    )


class TrainConfig(StageConfig, ModelConfig, RowsConfig):
    """Everything that trains: rows, lengths, batches, optimizer, LoRA, logging, checkpoints."""

    rates: ClassVar[str] = "sft"
    """Row of `config.defaults.RATES`; an objective with a row of its own takes that one."""
    kinds: ClassVar[tuple[str, ...] | None] = ("demonstration",)
    """Records that a stage without an objective reads: one of these kinds, None for prompts of any kind, ()
    where the rows are not there before the stage runs."""

    shuffle: bool = Field(default=True, description="new order of the rows in every epoch, from the seed")
    max_length: int = Field(default=1024, ge=8, description="longest prompt + completion, in tokens")
    overlength: Literal["drop", "truncate", "error"] = Field(
        default="drop", description="what to do with a longer one; truncate cuts prompts from the left"
    )

    per_device_train_batch_size: AutoSize = Field(
        default=AUTO,
        description="prompts with all their completions per accumulation unit; auto is the largest power of "
        "two, up to 64, with which the rows make 60 steps",
    )
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, description="accumulation units per optimizer step"
    )
    token_budget: int | None = free(
        None,
        ge=64,
        description="tokens per packed forward pass; bounds memory, does not change the result; "
        "null is 1024 on a CPU, 8192 on a GPU, where one longer prompt with its completions still fits",
    )
    num_train_epochs: float = longer(1.0, gt=0, description="passes over the rows, unless max_steps is set")
    max_steps: int = longer(-1, ge=-1, description="optimizer steps in all; -1 follows num_train_epochs")
    learning_rate: AutoRate = Field(
        default=AUTO,
        description="highest learning rate; auto follows method, size of the model and LoRA: "
        "docs/results/rates.md",
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field(
        default="cosine", description="shape of the decay after warm-up; linear and cosine end at 0"
    )
    warmup_ratio: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of the steps spent warming up; 0 where warmup_steps is set",
    )
    warmup_steps: int = Field(default=0, ge=0, description="steps spent warming up; excludes warmup_ratio")
    weight_decay: float = Field(
        default=0.0, ge=0, description="AdamW's decay of matrices, not of norms and biases"
    )
    adam_beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW's decay of the mean")
    adam_beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW's decay of the variance")
    adam_epsilon: float = Field(default=1e-8, gt=0, description="AdamW's ε")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="gradients are clipped to this norm; 0 does not clip"
    )
    gradient_checkpointing: bool = free(False, description="recompute activations: less memory, slower")
    torch_compile: bool = free(False, description="compile the layers: slow first steps, faster on a GPU")

    lora_r: int = Field(default=0, ge=0, description="rank of the LoRA adapters; 0 trains all weights")
    lora_alpha: float = Field(
        default=32.0, gt=0, description="LoRA scale; the update is multiplied by alpha / r"
    )
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in front of the adapters")
    lora_target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description="names of the linear layers that get adapters, or all-linear"
    )

    logging_steps: int = free(1, ge=1, description="steps between lines of metrics.jsonl")
    save_steps: int = free(100, ge=0, description="steps between checkpoints; 0 writes one on Ctrl-C only")
    save_total_limit: int = free(2, ge=1, description="checkpoints kept, the newest")

    def tokens_per_pass(self, device_type: str) -> int:
        """`token_budget`, or its default on a device (cpu, cuda).

        On a CPU 1024 tokens already keep the matrix products busy; a larger pass only takes more memory.
        """
        return self.token_budget or (1024 if device_type == "cpu" else 8192)

    def tokens_unsplit(self, device_type: str) -> int:
        """Up to how many tokens a prompt with its completions runs in one pass; longer ones run in pieces.

        Pieces cost one more forward pass, so without a `token_budget` only what is truly long is split.
        """
        return self.token_budget or (4096 if device_type == "cpu" else 16_384)

    @property
    def trains_base(self) -> bool:
        """Whether the model's own weights are trained, not only adapters or a head."""
        return not self.lora_r

    @property
    def adds_embeddings(self) -> bool:
        """Whether tokens without an embedding get one: not where the untrained model samples first."""
        return self.trains_base

    def rows_made(self, num_prompts: int) -> int | None:
        """Most rows that a stage makes of its prompts to train on; None where it trains on those it reads."""
        return None

    @model_validator(mode="before")
    @classmethod
    def _steps_in_the_place_of_a_share(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("warmup_steps") and "warmup_ratio" not in values:
            return {**values, "warmup_ratio": 0.0}
        return values

    @model_validator(mode="after")
    def _keys_that_exclude_each_other(self) -> TrainConfig:
        if self.max_steps == 0:
            raise conflict("max_steps", "0 would train nothing; -1 follows num_train_epochs")
        if self.warmup_ratio and self.warmup_steps:
            raise conflict("warmup_steps", "warmup_ratio is set too; keep one of them")
        if not self.lora_r:
            for key in ("lora_alpha", "lora_dropout", "lora_target_modules"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise conflict(key, "has no effect while lora_r is 0; set lora_r")
        return self


class HeldOutConfig(TrainConfig):
    """Training on stored rows, of which some may be held out."""

    eval_dataset: Dataset | None = free(None, description=f"held-out rows: {DATASET}")
    eval_fraction: AutoShare = Field(
        default=AUTO,
        description="share of the prompts held out for evaluation; auto is a tenth, 500 rows at most, and 0 "
        "with an eval_dataset or fewer than 20 prompts",
    )
    eval_steps: int = free(0, ge=0, description="steps between evaluations; 0 evaluates at the end only")

    @model_validator(mode="after")
    def _one_way_to_hold_out(self) -> HeldOutConfig:
        if self.eval_fraction not in (AUTO, 0) and self.eval_dataset is not None:
            raise conflict("eval_fraction", "eval_dataset is set too; keep one of them")
        return self


def holds_nothing_out(reason: str) -> dict[str, RefusedKey]:
    """The keys of `HeldOutConfig`, refused by a stage for this reason."""
    nothing = {"eval_dataset": None, "eval_fraction": 0, "eval_steps": 0}
    return {key: RefusedKey(value, reason) for key, value in nothing.items()}


class CompletionConfig(Section):
    """Completions drawn from the model's whole distribution."""

    temperature: float = Field(default=1.0, ge=0, description="0 takes the most likely token")
    max_new_tokens: int = Field(default=128, ge=1, description="longest completion in tokens")
    stop: tuple[str, ...] = Field(default=(), description="texts that end a completion")

    @property
    def bends(self) -> dict[str, Any]:
        """Settings by which the distribution is cut or bent, as `SamplingParams` takes them."""
        return {}


class SamplingConfig(CompletionConfig):
    """Completions drawn from the distribution, which may be cut or bent."""

    top_k: int = Field(default=0, ge=0, description="only the k most likely tokens; 0 is off")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="only the most likely tokens that sum to p; 1 is off"
    )
    min_p: float = Field(
        default=0.0, ge=0, le=1, description="only tokens at least min_p times as likely as the best"
    )
    repetition_penalty: float = Field(default=1.0, gt=0, description="above 1 makes used tokens less likely")

    @property
    def bends(self) -> dict[str, Any]:
        """See `CompletionConfig`."""
        return {key: getattr(self, key) for key in ("top_k", "top_p", "min_p", "repetition_penalty")}
