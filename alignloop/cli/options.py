"""Options that several commands have, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from alignloop.errors import UserError
from alignloop.foreign import loads

if TYPE_CHECKING:
    from alignloop.data.template_choice import TemplateChoice

TEMPLATE_KWARGS = typer.Option(
    help="""arguments for the chat template as JSON, such as '{"enable_thinking": false}'"""
)


def template_choice(name: str, kwargs: str) -> TemplateChoice:
    """The template that a command names.

    Raises:
        UserError: the arguments are no JSON object.
    """
    from alignloop.data.template_choice import TemplateChoice

    try:
        found = loads(kwargs)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(
            f'--chat-template-kwargs {kwargs}: not a JSON object such as {{"enable_thinking": false}}'
        )
    return TemplateChoice(name, found)
