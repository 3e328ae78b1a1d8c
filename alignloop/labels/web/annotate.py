"""Routes of the people who judge: sign in, the page, and what its script calls."""

from __future__ import annotations

import json
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from alignloop.foreign import loads
from alignloop.labels import people
from alignloop.labels.faults import Rejected
from alignloop.labels.improvement import Learned, learned
from alignloop.labels.judgements import MAX_NOTE
from alignloop.labels.messages import Session, Submission
from alignloop.labels.project import Annotator, Project, clean
from alignloop.labels.store import Store, log
from alignloop.labels.web.render import render
from alignloop.labels.web.sessions import SESSION_COOKIE, SESSION_S, check_csrf
from alignloop.labels.web.site import (
    TEXTS,
    Asker,
    Site,
    asker_of,
    known_language,
    language_of,
    page,
    receipt_json,
    signed_in,
    site_of,
    taken,
    task_json,
)
from alignloop.web.connections import network_of

MAX_DRAFT = 300_000
"""Longest draft, in characters of JSON."""
SUBMISSION = (
    "assignment",
    "key",
    "expected",
    "answer",
    "skip",
    "flagged",
    "note",
    "seconds",
    "guidelines",
    "next",
)
"""Fields of a judgement as it is sent."""


async def home(request: Request) -> Response:
    """The task page of an annotator; the projects for an owner; otherwise how to get in."""
    asker = await asker_of(request)
    if asker is None:
        return page(request, "login.html", token="")
    if asker.annotator.role == "owner":
        return RedirectResponse("/owner", 303)
    return await label_page(request, asker, asker.annotator.project_id)


async def label_page(
    request: Request,
    asker: Asker,
    project_id: int | None,
    *,
    item_id: int | None = None,
    votes: object = None,
) -> Response:
    """The page on which tasks are judged; with an item, for the owner's deciding judgement."""
    store = site_of(request).store
    project = await run_in_threadpool(store.project, project_id)
    guidelines = await run_in_threadpool(store.guidelines, project)
    progress = await run_in_threadpool(_learned, store, project)
    works = await run_in_threadpool(people.memberships, store, asker.annotator)
    texts = TEXTS[language_of(request, asker)]
    config = {
        "task": project.task,
        "attributes": list(project.settings.attributes),
        # Another database at the same address may have the same annotator's number.
        "owner": f"{store.identity}.{asker.annotator.id}",
        "guidelines": project.guideline_version,
        "item": item_id,
        "back": f"/owner/{project.id}",
        "texts": {key: text for key, text in texts.items() if key.startswith("js_")},
    }
    return page(
        request,
        "label.html",
        asker=asker,
        project=project,
        guidelines=render(guidelines),
        learned=progress,
        tasks=[other for _, other in works] if item_id is None and len(works) > 1 else [],
        config=config,
        votes=votes,
    )


def _learned(store: Store, project: Project) -> Learned | None:
    with store.reading() as connection:
        return learned(connection, project.id)


async def invitation(request: Request) -> Response:
    """An invitation link: a button that signs in, so that a link preview does not."""
    return page(request, "login.html", token=request.path_params["token"])


async def login(request: Request) -> Response:
    """Exchange an invitation token for a session."""
    site = site_of(request)
    client = network_of(request.client.host) if request.client else ""
    form = taken(await request.form(max_files=0, max_fields=5), "token")
    # People also paste the whole link.
    token = form.get("token", "").strip().rsplit("/", 1)[-1]
    annotator = await run_in_threadpool(people.by_token, site.store, token)
    if annotator is None:
        if site.guesses.failed(client, token):
            await site.writer.do(lambda c: log(c, "sign-in refused", actor=f"client {client}"))
        return page(request, "login.html", status=403, token="", failed=True)
    name, project_id = annotator.name, annotator.project_id
    # By the writer, not in a transaction of its own: many people at once would lock each other out.
    await site.writer.do(lambda c: log(c, "signed in", actor=name, project_id=project_id, client=client))
    response = RedirectResponse("/", 303)
    _open_session(request, response, annotator)
    return response


def _open_session(request: Request, response: Response, annotator: Annotator) -> None:
    response.set_cookie(
        SESSION_COOKIE,
        site_of(request).sessions.issue(annotator.id, annotator.epoch),
        max_age=SESSION_S,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )


@signed_in
async def logout(request: Request, asker: Asker) -> Response:
    """End this browser's session."""
    taken(request.state.form)
    response = RedirectResponse("/", 303)
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="lax")
    return response


@signed_in
async def change_project(request: Request, asker: Asker) -> Response:
    """Go on with another project of the same invitation."""
    site, wanted = site_of(request), taken(request.state.form, "project").get("project", "")
    works = await run_in_threadpool(people.memberships, site.store, asker.annotator)
    found = next((member for member, project in works if str(project.id) == wanted), None)
    if found is None:
        raise Rejected("there is no such project of yours", status=404, reason="project")
    response = RedirectResponse("/", 303)
    _open_session(request, response, found)
    return response


@signed_in
async def set_language(request: Request, asker: Asker) -> Response:
    """Read the page in another language."""
    language = known_language(taken(request.state.form, "language").get("language", ""))
    await run_in_threadpool(people.set_language, site_of(request).store, asker.annotator.id, language)
    response = RedirectResponse("/", 303)
    response.set_cookie("lang", language, max_age=365 * 24 * 3600, samesite="lax")
    return response


@signed_in
async def api_next(request: Request, asker: Asker) -> Response:
    """The task to do now."""
    site = site_of(request)
    json_object(await request.body() or b"{}")
    return await receipt_json(await site.writer.do(lambda c: site.desk.next(c, asker.session)))


async def api_open(request: Request) -> Response:
    """Open the item with a given prompt and answers, for a judgement that was made elsewhere."""
    site, visitor, body = await _writing(request, "prompt", "answers")
    prompt, answers = body.get("prompt"), body.get("answers")
    if not isinstance(prompt, list) or not prompt or not all(isinstance(row, dict) for row in prompt):
        raise Rejected("prompt must be a list of messages", status=422, reason="answer")
    if not isinstance(answers, list) or not all(isinstance(text, str) for text in answers):
        raise Rejected("answers must be a list of texts", status=422, reason="answer")
    opened = await site.writer.do(lambda c: site.desk.open(c, visitor, prompt, answers))
    return JSONResponse({"task": await task_json(opened.task), "judged": opened.judged})


async def api_judge(request: Request) -> Response:
    """Store a judgement. The desk looks the annotator up itself, in the same transaction."""
    site, visitor, body = await _writing(request, *SUBMISSION)
    sent = _submission(body)
    return await receipt_json(await site.writer.do(lambda c: site.desk.submit(c, visitor, sent)))


async def api_undo(request: Request) -> Response:
    """Take the last judgement back."""
    site, visitor, body = await _writing(request, "key")
    key = _text(body, "key", 64)
    return await receipt_json(await site.writer.do(lambda c: site.desk.undo(c, visitor, key)))


async def api_redo(request: Request) -> Response:
    """Put the last judgement that was taken back in force again."""
    site, visitor, body = await _writing(request, "key")
    key = _text(body, "key", 64)
    return await receipt_json(await site.writer.do(lambda c: site.desk.redo(c, visitor, key)))


async def api_draft(request: Request) -> Response:
    """Keep unsent input."""
    site, visitor, body = await _writing(request, "assignment", "draft")
    draft = body.get("draft")
    if not isinstance(draft, dict) or len(json.dumps(draft, ensure_ascii=False)) > MAX_DRAFT:
        raise Rejected("the draft is too large or not an object", status=422, reason="draft")
    task_id = _integer(body, "assignment")
    await site.writer.do(lambda c: site.desk.save_draft(c, visitor, task_id, draft))
    return JSONResponse({"saved": True})


@signed_in
async def api_guidelines(request: Request, asker: Asker) -> Response:
    """The guidelines in force, as `version` and `html`."""
    json_object(await request.body() or b"{}")
    store = site_of(request).store
    project = await run_in_threadpool(store.project, asker.annotator.project_id)
    text = await run_in_threadpool(store.guidelines, project)
    return JSONResponse({"version": project.guideline_version, "html": render(text)})


@signed_in
async def api_adjudicate(request: Request, asker: Asker) -> Response:
    """Open an item for the owner's deciding judgement."""
    site, item_id = site_of(request), _integer(request.path_params, "item")
    json_object(await request.body() or b"{}")
    task = await site.writer.do(lambda c: site.desk.adjudicate(c, asker.session, item_id))
    return JSONResponse({"task": await task_json(task), "progress": {}})


async def _writing(request: Request, *names: str) -> tuple[Site, Session, dict[str, Any]]:
    """State, signed session and JSON body of a script's writing request, which has these fields."""
    site = site_of(request)
    visitor = site.sessions.read(request)
    if visitor is None:
        raise Rejected("sign in with your invitation link", status=403, reason="session")
    check_csrf(request, visitor)
    return site, Session(visitor.annotator_id, visitor.epoch), json_object(await request.body(), *names)


def json_object(raw: bytes, *names: str) -> dict[str, Any]:
    """A JSON object of real Unicode text and finite numbers, with no other fields than these.

    Raises:
        Rejected: 400, or 422 for a field that would have no effect.
    """
    try:
        body = loads(raw, constant=_no_constant)
        if b"\\ud" in raw.lower():
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise Rejected("the request is not valid JSON", reason="json") from error
    if not isinstance(body, dict):
        raise Rejected("the request is not a JSON object", reason="json")
    unknown = sorted(set(body) - set(names))
    if unknown:
        accepted = f"known are {', '.join(names)}" if names else "there is none"
        raise Rejected(f"unknown field '{unknown[0][:80]}'; {accepted}", status=422, reason="field")
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _submission(body: dict[str, Any]) -> Submission:
    answer, skip, seconds = body.get("answer"), body.get("skip"), body.get("seconds", 0)
    flagged, note, advance = body.get("flagged"), body.get("note"), body.get("next")
    for name, value in (("flagged", flagged), ("next", advance)):
        if not (value is None or isinstance(value, bool)):
            raise Rejected(f"{name} must be true or false", status=422, reason="answer")
    if not (answer is None or isinstance(answer, dict)) or not (skip is None or isinstance(skip, str)):
        raise Rejected("answer must be an object, skip a text", status=422, reason="answer")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
        raise Rejected("seconds must be a number", status=422, reason="answer")
    return Submission(
        assignment_id=_integer(body, "assignment"),
        key=_text(body, "key", 64),
        expected=None if body.get("expected") is None else _integer(body, "expected"),
        answer=answer,
        skip_reason=skip,
        flagged=flagged is True,
        note="" if note is None or note == "" else _text(body, "note", MAX_NOTE),
        seconds=float(seconds),
        guidelines=None if body.get("guidelines") is None else _integer(body, "guidelines"),
        advance=advance is not False,
    )


def _integer(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise Rejected(f"{name} must be a positive whole number", status=422, reason="answer")
    return value


def _text(body: dict[str, Any], name: str, longest: int) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise Rejected(f"{name} must be a text of 1 to {longest} characters", status=422, reason="answer")
    return clean(value)


ROUTES = [
    Route("/", home),
    Route("/invite/{token}", invitation),
    Route("/login", login, methods=["POST"]),
    Route("/logout", logout, methods=["POST"]),
    Route("/language", set_language, methods=["POST"]),
    Route("/project", change_project, methods=["POST"]),
    Route("/api/next", api_next, methods=["POST"]),
    Route("/api/open", api_open, methods=["POST"]),
    Route("/api/judge", api_judge, methods=["POST"]),
    Route("/api/undo", api_undo, methods=["POST"]),
    Route("/api/redo", api_redo, methods=["POST"]),
    Route("/api/draft", api_draft, methods=["POST"]),
    Route("/api/guidelines", api_guidelines, methods=["POST"]),
    Route("/api/adjudicate/{item:int}", api_adjudicate, methods=["POST"]),
]
