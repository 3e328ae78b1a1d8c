"""What every route shares: the store, its writer, who is asking, and how to answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import wraps

from jinja2 import Environment
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from alignloop.labels import people
from alignloop.labels.faults import Rejected, StoreUnavailable
from alignloop.labels.judging import Desk
from alignloop.labels.messages import LabelTask, Receipt, Session
from alignloop.labels.project import Annotator
from alignloop.labels.store import Store
from alignloop.labels.web.render import block_html, blocks, render
from alignloop.labels.web.sessions import Guesses, Sessions, Visitor, check_csrf
from alignloop.labels.writer import Writer
from alignloop.web.pages import LANGUAGES, page_texts, preferred_language
from alignloop.web.shell import Refused

PACKAGE = "alignloop.labels.web"
"""Where words, templates and files of the page lie."""
TEXTS = page_texts(PACKAGE)

_THREADED_RENDER = 4000
"""Texts longer than this are rendered off the event loop, in characters."""


@dataclass(slots=True)
class Site:
    """The running application's state."""

    store: Store
    desk: Desk
    writer: Writer
    sessions: Sessions
    guesses: Guesses
    templates: Environment
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Asker:
    """A signed-in person."""

    visitor: Visitor
    annotator: Annotator

    @property
    def session(self) -> Session:
        """For the desk."""
        return Session(self.visitor.annotator_id, self.visitor.epoch)


def site_of(request: Request) -> Site:
    """The state the application was made with."""
    return request.app.state.site


async def asker_of(request: Request) -> Asker | None:
    """Who is asking; None without a session or when its access has ended."""
    site = site_of(request)
    visitor = site.sessions.read(request)
    if visitor is None:
        return None
    annotator = await run_in_threadpool(people.find, site.store, visitor.annotator_id)
    if annotator is None or annotator.removed is not None or annotator.epoch != visitor.epoch:
        return None
    return Asker(visitor, annotator)


def language_of(request: Request, asker: Asker | None = None) -> str:
    """Language of the page: the address, the cookie, the annotator's own, the browser's."""
    chosen = request.query_params.get("lang") or request.cookies.get("lang")
    own = None if asker is None else asker.annotator.language
    return preferred_language(chosen, own, request.headers.get("accept-language"))


def page(
    request: Request, template: str, *, asker: Asker | None = None, status: int = 200, **values: object
) -> HTMLResponse:
    """A rendered template in the reader's language."""
    language = language_of(request, asker)
    html = (
        site_of(request)
        .templates.get_template(template)
        .render(
            t=TEXTS[language],
            language=language,
            languages=LANGUAGES,
            csrf="" if asker is None else asker.visitor.csrf,
            who=None if asker is None else asker.annotator,
            **values,
        )
    )
    return HTMLResponse(html, status_code=status)


def known_language(language: str) -> str:
    """The language, if the page has it.

    Raises:
        Rejected: 422.
    """
    if language not in LANGUAGES:
        raise Rejected(
            f"unknown language '{language[:40]}'; there are {', '.join(LANGUAGES)}",
            status=422,
            reason="language",
        )
    return language


def wants_json(request: Request) -> bool:
    """Whether the caller is the page's own script."""
    return request.url.path.startswith("/api/")


async def on_fault(request: Request, error: Exception) -> Response:
    """Answer a refused or failed request: JSON for scripts, a page for people."""
    if isinstance(error, HTTPException):
        status, message, headers = error.status_code, str(error.detail), dict(error.headers or {})
        reason = error.reason if isinstance(error, Refused) else "missing" if status == 404 else "invalid"
    elif isinstance(error, Rejected | StoreUnavailable):
        status, reason, message, headers = error.status, error.reason, str(error), {}
    else:  # a UserError: what was asked for does not fit
        status, reason, message, headers = 422, "invalid", str(error), {}
    if status in (429, 503):
        headers["Retry-After"] = "60" if status == 429 else "2"
    if wants_json(request):
        return JSONResponse({"error": message, "reason": reason}, status, headers)
    texts = TEXTS[language_of(request)]
    shown = texts.get(f"fault_{reason}", message)
    # What exactly does not fit is said in English only.
    detail = message if status in (409, 422) and shown != message else ""
    response = page(request, "fault.html", status=status, message=shown, detail=detail)
    response.headers.update(headers)
    return response


Handler = Callable[[Request, Asker], Awaitable[Response]]


def signed_in(
    handler: Handler, *, files: int = 0, owner: bool = False
) -> Callable[[Request], Awaitable[Response]]:
    """Route for signed-in people; a writing request needs the session's own token.

    JSON requests carry it in a header, forms in the field `csrf`; a form arrives as `request.state.form`,
    with up to `files` files. With `owner` nobody else gets as far as having a form read.
    """

    @wraps(handler)
    async def route(request: Request) -> Response:
        asker = await asker_of(request)
        if asker is None:
            if wants_json(request) or request.method != "GET":
                raise Rejected("sign in with your invitation link", status=403, reason="session")
            return RedirectResponse("/", 303)
        if owner and asker.annotator.role != "owner":
            raise Rejected("this page is for the owner", status=403, reason="role")
        if request.method not in ("GET", "HEAD"):
            token = None
            if not wants_json(request):
                request.state.form = await request.form(max_files=files, max_fields=100)
                token = form_text(request.state.form, "csrf")
            check_csrf(request, asker.visitor, token)
        return await handler(request, asker)

    return route


def owners_only(handler: Handler, *, files: int = 0) -> Callable[[Request], Awaitable[Response]]:
    """As `signed_in`, for owners."""
    return signed_in(handler, files=files, owner=True)


def form_text(form: FormData | QueryParams, name: str, default: str = "") -> str:
    """A text field of a form."""
    value = form.get(name, default)
    return value if isinstance(value, str) else default


def taken(form: FormData | QueryParams, *names: str) -> dict[str, str]:
    """The fields that were sent of those a route takes.

    Raises:
        Rejected: 422, a field that the route does not take or that is there twice: it would have no effect.
    """
    unknown = [name for name in form if name not in (*names, "csrf")]
    if unknown:
        accepted = f"it takes {', '.join(names)}" if names else "it takes none"
        raise Rejected(f"unknown field '{unknown[0][:80]}'; {accepted}", status=422, reason="field")
    double = [name for name in form if len(form.getlist(name)) > 1]
    if double:
        raise Rejected(f"field '{double[0]}' was sent twice", status=422, reason="field")
    return {name: form_text(form, name) for name in form if name in names}


async def _rendered(text: str) -> str:
    return await run_in_threadpool(render, text) if len(text) > _THREADED_RENDER else render(text)


async def _shown(block: dict[str, str]) -> str:
    return (
        await run_in_threadpool(block_html, block)
        if len(block["text"]) > _THREADED_RENDER
        else block_html(block)
    )


async def task_json(task: LabelTask) -> dict[str, object]:
    """A task for the page: raw and rendered texts, nothing that tells models, gold or repeats apart."""
    return {
        "id": task.id,
        "kind": task.kind,
        "prompt": [block | {"html": await _shown(block)} for block in blocks(task.prompt)],
        "answers": [{"text": text, "html": await _rendered(text)} for text in task.answers],
        "expected": task.expected,
        "draft": task.draft,
        "previous": task.previous,
        "note": task.note,
        "flagged": task.flagged,
    }


async def receipt_json(receipt: Receipt) -> JSONResponse:
    """A desk's answer for the page."""
    return JSONResponse(
        {
            "judgement": receipt.judgement_id,
            "task": None if receipt.task is None else await task_json(receipt.task),
            "progress": asdict(receipt.progress),
            "guidelines": receipt.guidelines,
        }
    )
