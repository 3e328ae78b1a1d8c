"""Routes of the chat page: the page itself, its files, and votes.

Everything else it does goes through the same /v1 routes that programs use.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from alignloop.foreign import loads
from alignloop.labels.web.texts import LANGUAGES, preferred
from alignloop.records import Conversation, Message, written
from alignloop.serve.protocol import Strict, fault
from alignloop.serve.votes import Comparison, Thumb, Vote

_KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_SHARED = ("base.css", "theme.js", "icon.svg")
"""Files of the labelling page that this one uses too."""
TEXTS: Mapping[str, Mapping[str, str]] = {
    language: loads(
        files("alignloop.serve.web").joinpath("texts", f"{language}.json").read_text(encoding="utf-8")
    )
    for language in LANGUAGES
}


class Turn(Strict):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str
    reasoning_content: str = ""

    @model_validator(mode="after")
    def _thinks_as_an_assistant(self) -> Turn:
        if self.reasoning_content and self.role != "assistant":
            raise fault("reasoning_content", "only an assistant's message has reasoning_content")
        return self


class Judged(Strict):
    """An answer and the name of its model."""

    text: str
    model: str
    reasoning_content: str = ""

    @property
    def whole(self) -> str:
        """Thoughts and answer, as a row of training data has them."""
        return written(Message("assistant", self.text, self.reasoning_content))


class VoteRequest(Strict):
    """Body of /api/vote: one answer with a thumb, or two with a verdict."""

    prompt: list[Turn] = Field(min_length=1)
    answers: list[Judged] = Field(min_length=1, max_length=2)
    verdict: Literal["a", "b", "tie", "both_bad", "good", "bad"]

    def vote(self) -> Vote:
        """The vote.

        Raises:
            ValueError: a verdict that does not fit the number of answers.
        """
        prompt: Conversation = tuple(
            Message(turn.role, turn.content, turn.reasoning_content) for turn in self.prompt
        )
        if (len(self.answers) == 1) != (self.verdict in ("good", "bad")):
            raise ValueError("one answer is good or bad; two are judged a, b, tie or both_bad")
        if self.verdict == "good" or self.verdict == "bad":
            return Thumb(prompt, self.answers[0].whole, self.answers[0].model, self.verdict == "good")
        one, two = self.answers
        return Comparison(prompt, (one.whole, two.whole), (one.model, two.model), self.verdict)


class Page:
    """The page's files, read once: no request ever names a path.

    Arguments:
        votes: where votes go, shown to the reader; None if they are not kept.
    """

    def __init__(self, votes: str | None) -> None:
        environment = Environment(
            loader=PackageLoader("alignloop.serve.web"), autoescape=True, undefined=StrictUndefined
        )
        template = environment.get_template("chat.html")
        self._pages = {
            language: template.render(
                t=TEXTS[language], language=language, languages=LANGUAGES, votes=votes or ""
            )
            for language in LANGUAGES
        }
        shared = files("alignloop.labels.web").joinpath("static")
        own = files("alignloop.serve.web").joinpath("static")
        self._files = _read([*(shared.joinpath(name) for name in _SHARED), *own.iterdir()])

    async def page(self, request: Request) -> Response:
        """GET /: the page in the reader's language."""
        wishes = request.query_params.get("lang"), request.headers.get("accept-language")
        return HTMLResponse(self._pages[preferred(*wishes)], headers={"vary": "accept-language"})

    async def file(self, request: Request) -> Response:
        """GET /static/NAME."""
        found = self._files.get(request.path_params["name"])
        if found is None:
            return Response("not found", 404)
        return Response(found[0], media_type=found[1], headers={"cache-control": "no-cache"})


def _read(entries: list[Traversable]) -> dict[str, tuple[bytes, str]]:
    found = {}
    for entry in entries:
        kind = _KINDS.get("." + entry.name.rsplit(".", 1)[-1])
        if kind is not None:
            found[entry.name] = (entry.read_bytes(), kind)
    return found
