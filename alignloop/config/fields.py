"""How keys are declared: sections, paths, `auto`, what a continuation may change, errors about two keys."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from alignloop.config.checking import RefusedKey
from alignloop.config.given import python_call
from alignloop.data.template_choice import TemplateChoice
from alignloop.errors import ConfigError

C = TypeVar("C", bound="StageConfig")
N = TypeVar("N", int, float)
AUTO: Literal["auto"] = "auto"
"""Value of a key that data and model decide before a run begins: see `config.defaults`."""
AutoRate = Annotated[float, Field(gt=0)] | Literal["auto"]
AutoSize = Annotated[int, Field(ge=1)] | Literal["auto"]
AutoShare = Annotated[float, Field(ge=0, le=0.5)] | Literal["auto"]


def fixed(value: N | Literal["auto"]) -> N:
    """The number of a key that may be `auto`.

    Args:
        value: as the configuration has it.

    Returns:
        The number.

    Raises:
        ConfigError: it is still `auto`: the stage was called without `stages.defaults.settled`.
    """
    if value == AUTO:
        raise ConfigError("a key is still 'auto'; give it a number, or run the stage by its recipe")
    return value


def path_or(*words: str) -> FieldInfo:
    """Marks a text as a path, so that its content counts in a run's fingerprint; `words` are none."""
    extra: dict[str, JsonValue] = {"format": "path"}
    return Field(json_schema_extra={**extra, "words": list(words)} if words else extra)


def free(default: Any, **more: Any) -> Any:
    """A field that an unfinished run may go on with at another value: no row and no weight depends on it,
    but for rounding. A `Field` decides what is learned: with another value it is another run."""
    return Field(default=default, json_schema_extra={"resume": "free"}, **more)


def longer(default: Any, **more: Any) -> Any:
    """A field by which a new run may train on from a checkpoint (`--resume PATH`): the rows come in the same
    order, only the end and with it the learning rate's decay move."""
    return Field(default=default, json_schema_extra={"resume": "longer"}, **more)


def defaulting(section: type[BaseModel], key: str, default: Any) -> Any:
    """The field of a section with another default: its range, its meaning and its rule for continuations.

    Args:
        section: where the key is declared.
        key: the field.
        default: in its place here.

    Returns:
        The field.
    """
    field = section.model_fields[key]
    bounds = {name: getattr(part, name) for part in field.metadata for name in _BOUNDS if hasattr(part, name)}
    return Field(
        default=default, description=field.description, json_schema_extra=field.json_schema_extra, **bounds
    )


_BOUNDS = ("gt", "ge", "lt", "le")


def conflict(key: str, message: str) -> PydanticCustomError:
    """An error about two keys that do not go together, reported at the line of `key`."""
    return PydanticCustomError("conflict", "{message}", {"key": key, "message": message})


if TYPE_CHECKING:  # Python calls take paths, runs and loaded models too: see `config.given`
    Path = ModelPath = Any
else:
    Path = Annotated[str, path_or()]
    ModelPath = Annotated[str, path_or("smollm2-135m-instruct", "tiny")]
"""`Path` is a file, a folder, a run folder, or `@name` of an earlier stage of the same recipe."""
TemplatePath = Annotated[str, path_or("tokenizer", "alpaca", "chatml", "plain")]
RewardPath = Annotated[str, path_or("gold", "constraints", "math", "regex", "json_schema", "exact")]
ReferencePath = Annotated[str, path_or("auto", "none", "start", "smollm2-135m-instruct", "tiny")]


class Section(BaseModel):
    """What all parts of a recipe share: frozen, nothing unknown, no NaN, `true` is not a number."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
            raise PydanticCustomError("bool", "true and false are no value of this key")
        return value


class TemplateConfig(Section):
    """How a conversation becomes text, and text becomes tokens."""

    chat_template: TemplatePath = Field(
        default="tokenizer",
        description="tokenizer (the model's own), alpaca, chatml, plain, or a .jinja file",
    )
    chat_template_kwargs: dict[str, JsonValue] = Field(
        default={},
        description="arguments for the template, such as enable_thinking: false; strftime_now: 2026-01-31 "
        "is the date it tells",
    )
    special_tokens_in_content: bool = Field(
        default=False,
        description="read <|im_end|> and the like within messages as special tokens, for rows that were "
        "rendered before",
    )

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _dates_as_text(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item.isoformat() if isinstance(item, date) else item for key, item in value.items()}

    @property
    def template(self) -> TemplateChoice:
        """What the recipe says of the template."""
        return TemplateChoice(self.chat_template, self.chat_template_kwargs, self.special_tokens_in_content)


class StageConfig(Section):
    """Where a stage writes and on what it computes.

    Made in Python, a configuration takes other tools' names for keys (with a note on stderr) and Python
    objects for paths: rows, loaded models, runs and functions; see docs/python.md.

    Raises:
        ConfigError: everything that is wrong, one sentence for each key.
    """

    if not TYPE_CHECKING:  # a type checker makes the signature from the fields

        def __init__(self, **keys: Any) -> None:
            with python_call(type(self), keys) as values:
                super().__init__(**values)

        # Recipes are validated without this method, by `model_validate`: their faults have lines.
        __init__.__pydantic_base_init__ = True

    refused: ClassVar[Mapping[str, RefusedKey]] = {}
    """Keys of other stages that this one has no use for, with the reason."""

    output_dir: Path = Field(
        default="",
        description="run folder to write; must be new or the same run's; empty: runs/STAGE",
        json_schema_extra={"format": "path", "resume": "free"},
    )
    seed: int = Field(default=42, ge=0, le=2**32 - 1, description="seed of everything random in this stage")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto takes a GPU if there is one"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto is bfloat16 on a GPU and float32 on a CPU"
    )
    num_threads: int = free(0, ge=0, description="CPU threads; 0 leaves the choice to PyTorch")
    report_to: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = free(
        (), description="send metrics there as well; the run folder has them in any case"
    )

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_or_none(cls, value: Any) -> Any:
        return (() if value == "none" else (value,)) if isinstance(value, str) else value
