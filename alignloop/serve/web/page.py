"""The chat page and the votes it sends.

Everything else it does goes through the same /v1 routes that programs use.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from alignloop.records import Conversation, Message, written
from alignloop.serve.protocol import Strict, fault
from alignloop.serve.votes import PairVote, Thumb, Vote
from alignloop.web.pages import LANGUAGES, page_templates, page_texts, preferred_language

PACKAGE = "alignloop.serve.web"
"""Where words, template and files of the page lie."""
TEXTS = page_texts(PACKAGE)


class PageTurn(Strict):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str
    reasoning_content: str = ""

    @model_validator(mode="after")
    def _thinks_as_an_assistant(self) -> PageTurn:
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

    prompt: list[PageTurn] = Field(min_length=1)
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
        return PairVote(prompt, (one.whole, two.whole), (one.model, two.model), self.verdict)


class Page:
    """The page, written once in each language.

    Arguments:
        votes: where votes go, shown to the reader; None if they are not kept.
    """

    def __init__(self, votes: str | None) -> None:
        template = page_templates(PACKAGE).get_template("chat.html")
        self._pages = {
            language: template.render(
                t=TEXTS[language], language=language, languages=LANGUAGES, votes=votes or ""
            )
            for language in LANGUAGES
        }

    async def page(self, request: Request) -> Response:
        """GET /: the page in the reader's language."""
        wishes = request.query_params.get("lang"), request.headers.get("accept-language")
        return HTMLResponse(self._pages[preferred_language(*wishes)], headers={"vary": "accept-language"})
