"""What all parts of a recipe are made of: sections, paths, and the keys of the chat template."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from alignloop.config.fields import path_or
from alignloop.data.template_choice import TemplateChoice

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
