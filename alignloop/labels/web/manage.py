"""Routes of the owner: projects and imports made in the browser, items found by words and states."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alignloop.data.sources import SUFFIXES
from alignloop.errors import UserError
from alignloop.labels import people
from alignloop.labels.faults import Rejected
from alignloop.labels.finding import STATES, find_items
from alignloop.labels.importing import add
from alignloop.labels.project import Project, Settings
from alignloop.labels.store import Store
from alignloop.labels.tasks import ANSWER_COUNTS
from alignloop.labels.web.owner import MAX_GUIDELINES, back_to, project_of, show_dashboard
from alignloop.labels.web.site import Asker, owners_only, page, site_of, taken

PAGE = 50
"""Items on one page of a search."""


@owners_only
async def start(request: Request, asker: Asker) -> Response:
    """Straight to the only project, else to the list of them."""
    found = await run_in_threadpool(site_of(request).store.projects)
    return back_to(found[0]) if len(found) == 1 else await list_projects(request, asker)


async def list_projects(request: Request, asker: Asker) -> Response:
    """All projects, and the form for a new one."""
    found = await run_in_threadpool(site_of(request).store.projects)
    attributes = ", ".join(Settings().attributes)
    return page(
        request,
        "projects.html",
        asker=asker,
        projects=found,
        tasks=list(ANSWER_COUNTS),
        attributes=attributes,
    )


@owners_only
async def create(request: Request, asker: Asker) -> Response:
    """Make a project; its page has the form for an import."""
    store, form = (
        site_of(request).store,
        taken(request.state.form, "name", "task", "attributes", "guidelines"),
    )
    name, task = form.get("name", "").strip(), form.get("task", "")
    names = [name.strip() for name in form.get("attributes", "").split(",") if name.strip()]
    settings = Settings(attributes=tuple(names)) if task == "scores" and names else Settings()
    text = form.get("guidelines", "").replace("\r\n", "\n")
    if len(text) > MAX_GUIDELINES:
        raise Rejected(f"guidelines have at most {MAX_GUIDELINES} characters", status=422, reason="size")
    made = await run_in_threadpool(
        lambda: store.create_project(name, task=task, settings=settings, guidelines_text=text)
    )
    return back_to(made, "#import")


async def import_file(request: Request, asker: Asker) -> Response:
    """Queue the rows of a file that the owner sent."""
    store, project, sent = site_of(request).store, await project_of(request), request.state.form.get("file")
    form = taken(request.state.form, "file", "pairs", "columns", "gold")
    if not isinstance(sent, UploadFile) or not sent.filename:
        raise Rejected("choose a file to import", status=422, reason="import")
    name = _safe_name(sent.filename)
    pairs: Literal["one", "all"] = "all" if form.get("pairs") == "all" else "one"
    columns = _columns(form.get("columns", ""))
    gold, actor = form.get("gold") == "on", asker.annotator.name
    said: list[str] = []

    def queue() -> None:
        with tempfile.TemporaryDirectory(prefix="alignloop-import-") as folder:
            path = Path(folder) / name
            with path.open("wb") as file:
                while block := sent.file.read(1 << 20):
                    file.write(block)
            try:
                add(
                    store,
                    project,
                    path,
                    pairs=pairs,
                    gold=gold,
                    columns=columns,
                    name=name,
                    actor=actor,
                    say=said.append,
                )
            except UserError as error:
                message = str(error).replace(f"{folder}/", "")
                raise Rejected(message, status=422, reason="import") from error

    await run_in_threadpool(queue)
    return await show_dashboard(request, asker, said=said)


def _safe_name(filename: str) -> str:
    """The file's own name, without folders or signs that mean something to the reader of data files."""
    name = re.sub(r"[^\w.() -]", "_", Path(filename.replace("\\", "/")).name)[-120:].lstrip(".")
    if not name.lower().endswith(SUFFIXES):
        accepted = ", ".join(SUFFIXES)
        raise Rejected(f"'{name}' is no data file; accepted are {accepted}", status=422, reason="import")
    return name


def _columns(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not (field.strip() and column.strip()) for field, _, column in pairs):
        raise Rejected(
            "columns are given as field=column, such as prompt=question", status=422, reason="import"
        )
    return {field.strip(): column.strip() for field, _, column in pairs}


@owners_only
async def search(request: Request, asker: Asker) -> Response:
    """Items of a project by words, state and annotator."""
    store, project, query = site_of(request).store, await project_of(request), request.query_params
    words, state = query.get("q", "")[:200], query.get("state", "any")
    person = _number(query.get("person", ""))
    number = max(_number(query.get("page", "")) or 1, 1)
    found, total = await run_in_threadpool(_find, store, project, words, state, person, number)
    kept = {"q": words, "state": state, "person": person or ""}
    return page(
        request,
        "items.html",
        asker=asker,
        project=project,
        people=await run_in_threadpool(people.list_annotators, store, project),
        states=STATES,
        chosen=kept,
        found=found,
        total=total,
        number=number,
        pages=max(-(-total // PAGE), 1),
        address=lambda n: f"/owner/{project.id}/items?{urlencode({**kept, 'page': n})}",
    )


def _find(store: Store, project: Project, words: str, state: str, person: int | None, number: int):
    return find_items(
        store, project, words=words, state=state, person=person, offset=(number - 1) * PAGE, limit=PAGE
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


_P = "/owner/{project:int}"
ROUTES = [
    Route("/owner", start),
    Route("/owner/projects", owners_only(list_projects)),
    Route("/owner/projects", create, methods=["POST"]),
    Route(_P + "/import", owners_only(import_file, files=1), methods=["POST"]),
    Route(_P + "/items", search),
]
