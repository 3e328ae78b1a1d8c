"""Routes of the owner: numbers, people, settings, disagreements, items, export, audit log."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from urllib.parse import urlencode

from sqlalchemy import Row
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from alignloop.data.columns import record_to_row
from alignloop.labels import people
from alignloop.labels.assign import display_order
from alignloop.labels.export import DERIVED, NATIVE, Filters, records
from alignloop.labels.faults import Rejected
from alignloop.labels.overview import overview
from alignloop.labels.project import Project, Settings
from alignloop.labels.store import Store
from alignloop.labels.votes import Vote, item_rows, live_votes
from alignloop.labels.web.addresses import is_local, shared_address
from alignloop.labels.web.annotate import label_page
from alignloop.labels.web.render import block_html, blocks, render
from alignloop.labels.web.site import Asker, known_language, owners_only, page, site_of, taken

MAX_GUIDELINES = 50_000
MAX_REASON = 500
SHOWN = 100
"""Rows of a list on the owner's page."""


async def project_of(request: Request) -> Project:
    """The project that the address names.

    Raises:
        Rejected: 404 when there is none.
    """
    number = request.path_params["project"]
    if not 0 < number < 2**31:
        raise Rejected("there is no such project", status=404, reason="missing")
    return await run_in_threadpool(site_of(request).store.project, number)


def back_to(project: Project, anchor: str = "") -> RedirectResponse:
    """The way back to a project's page after a form was sent."""
    return RedirectResponse(f"/owner/{project.id}{anchor}", 303)


@owners_only
async def dashboard(request: Request, asker: Asker) -> Response:
    """The owner's page of a project."""
    return await show_dashboard(request, asker)


async def show_dashboard(
    request: Request, asker: Asker, *, link: str = "", name: str = "", said: Sequence[str] = ()
) -> Response:
    """The owner's page.

    Args:
        request: whose address names the project.
        asker: the owner.
        link: an invitation's, shown once.
        name: of the person invited.
        said: lines about what was imported.

    Returns:
        The page.
    """
    store, project = site_of(request).store, await project_of(request)
    numbers = await run_in_threadpool(overview, store, project)
    guidelines = await run_in_threadpool(store.guidelines, project)
    log = await run_in_threadpool(lambda: store.audit_log(project, limit=SHOWN))
    kinds = [NATIVE[project.task], *(kind for task, kind in DERIVED if task == project.task)]
    return page(
        request,
        "owner.html",
        asker=asker,
        project=project,
        o=numbers,
        guidelines=guidelines,
        log=log,
        kinds=kinds,
        shown=SHOWN,
        link=link,
        link_name=name,
        said=said,
        number_settings=[f.name for f in fields(Settings) if f.name not in ("attributes", "currency")],
    )


@owners_only
async def invite(request: Request, asker: Asker) -> Response:
    """Invite an annotator; the link is shown on this answer and never again."""
    store, project = site_of(request).store, await project_of(request)
    form = taken(request.state.form, "name", "language", "everywhere")
    name, language = form.get("name", ""), known_language(form.get("language", "en"))
    everywhere = _ticked(form, "everywhere")
    _, token = await run_in_threadpool(
        lambda: people.invite(store, project, name, language=language, everywhere=everywhere)
    )
    return await show_dashboard(request, asker, link=_link(request, token), name=name)


def _link(request: Request, token: str) -> str:
    """An invitation's address. The owner may be at this machine's own, which nobody else can open."""
    link = str(request.url_for("invitation", token=token))
    base, shared = link.removesuffix(f"/invite/{token}"), shared_address(site_of(request).addresses)
    return link if shared is None or not is_local(base) else f"{shared}/invite/{token}"


@owners_only
async def new_link(request: Request, asker: Asker) -> Response:
    """Replace an annotator's link."""
    store, person = site_of(request).store, await _person(request)
    taken(request.state.form)
    token = await run_in_threadpool(lambda: people.new_link(store, person, actor=asker.annotator.name))
    found = await run_in_threadpool(people.find, store, person)
    name = found.name if found else ""
    return await show_dashboard(request, asker, link=_link(request, token), name=name)


@owners_only
async def remove(request: Request, asker: Asker) -> Response:
    """End an annotator's access."""
    store, person = site_of(request).store, await _person(request)
    taken(request.state.form)
    await run_in_threadpool(lambda: people.remove(store, person, actor=asker.annotator.name))
    return back_to(await project_of(request), "#people")


async def _person(request: Request) -> int:
    """Id of an annotator of this project."""
    project, number = await project_of(request), request.path_params["person"]
    known = await run_in_threadpool(people.list_annotators, site_of(request).store, project)
    if number not in [annotator.id for annotator in known]:
        raise Rejected("there is no such annotator", status=404, reason="missing")
    return number


@owners_only
async def change_settings(request: Request, asker: Asker) -> Response:
    """Change overlap, checks, prices, attributes."""
    store, project = site_of(request).store, await project_of(request)
    known = {f.name: f for f in fields(Settings) if f.name != "attributes" or project.task == "scores"}
    values: dict[str, object] = {}
    for name, text in taken(request.state.form, *known).items():
        if name == "attributes":
            values[name] = tuple(part.strip() for part in text.split(",") if part.strip())
        elif name == "currency":
            values[name] = text
        else:
            values[name] = _number(name, text, whole=isinstance(known[name].default, int))
    settings = replace(project.settings, **values)
    await run_in_threadpool(lambda: store.change_settings(project, settings, actor=asker.annotator.name))
    return back_to(project, "#settings")


def _number(name: str, text: str, *, whole: bool) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError as error:
        raise Rejected(
            f"{name} must be a number, not '{text[:40]}'", status=422, reason="settings"
        ) from error


@owners_only
async def change_guidelines(request: Request, asker: Asker) -> Response:
    """Publish a new version of the guidelines."""
    store, project = site_of(request).store, await project_of(request)
    text = taken(request.state.form, "text").get("text", "").replace("\r\n", "\n")
    if len(text) > MAX_GUIDELINES:
        raise Rejected(f"guidelines have at most {MAX_GUIDELINES} characters", status=422, reason="size")
    await run_in_threadpool(lambda: store.change_guidelines(project, text, actor=asker.annotator.name))
    return back_to(project, "#settings")


@owners_only
async def item(request: Request, asker: Asker) -> Response:
    """One item with its models and judgements."""
    store, project = site_of(request).store, await project_of(request)
    row, votes = await run_in_threadpool(_item, store, project, request.path_params["item"])
    shown = [{"model": a["model"], "html": render(a["text"])} for a in row.answers]
    prompt = [{"role": block["role"], "html": block_html(block)} for block in blocks(row.prompt)]
    names = [str(k + 1) for k in range(len(shown))]
    texts = [_said(project.task, vote, names) for vote in votes]
    return page(
        request,
        "item.html",
        asker=asker,
        project=project,
        item=row,
        prompt=prompt,
        answers=shown,
        votes=list(zip(votes, texts, strict=True)),
    )


@owners_only
async def adjudicate(request: Request, asker: Asker) -> Response:
    """The task page for the owner's deciding judgement; the votes are there, folded away."""
    store, project = site_of(request).store, await project_of(request)
    row, votes = await run_in_threadpool(_item, store, project, request.path_params["item"])
    order = display_order(len(row.answers), seed=0, annotator_id=asker.annotator.id, item_id=row.id)
    names = ["ABCDE"[order.index(index)] for index in range(len(order))]
    said = [{"name": v.annotator, "text": _said(project.task, v, names), "note": v.note} for v in votes]
    return await label_page(request, asker, project.id, item_id=row.id, votes=said)


def _item(store: Store, project: Project, item_id: int) -> tuple[Row, list[Vote]]:
    with store.reading() as connection:
        row = item_rows(connection, [item_id]).get(item_id) if item_id < 2**31 else None
        if row is None or row.project_id != project.id:
            raise Rejected("there is no such item", status=404, reason="missing")
        return row, live_votes(connection, project.id, item_id=item_id)


def _said(task: str, vote: Vote, names: Sequence[str]) -> str:
    """A judgement in short; `names[i]` stands for the item's answer i."""
    answer = vote.answer
    if task == "pair":
        first, second = names if answer["preference"] >= 0 else names[::-1]
        sign = "✕" if answer["both_bad"] else {0: "=", 1: ">", 2: "≫"}[abs(answer["preference"])]
        return f"{first} {sign} {second}"
    if task == "ranking":
        best_first = sorted(zip(answer["ranks"], names, strict=True))
        return ", ".join(f"{rank}: {name}" for rank, name in best_first)
    if task == "scores":
        columns = {a: sorted(zip(names, values, strict=True)) for a, values in answer["scores"].items()}
        return "; ".join(f"{a}: " + ", ".join(f"{n} {v}" for n, v in column) for a, column in columns.items())
    if task == "thumbs":
        return ", ".join(
            f"{n} {'✓' if t else '✕'}" for n, t in sorted(zip(names, answer["thumbs"], strict=True))
        )
    return answer["text"]


@owners_only
async def withdraw(request: Request, asker: Asker) -> Response:
    """Take an item out."""
    store, project, item_id = site_of(request).store, await project_of(request), request.path_params["item"]
    await run_in_threadpool(_item, store, project, item_id)
    reason = taken(request.state.form, "reason").get("reason", "")
    if len(reason) > MAX_REASON:
        raise Rejected(f"a reason has at most {MAX_REASON} characters", status=422, reason="size")
    actor = asker.annotator.name
    await run_in_threadpool(lambda: store.withdraw(project, [item_id], reason=reason, actor=actor))
    return back_to(project)


@owners_only
async def export(request: Request, asker: Asker) -> Response:
    """Download the judgements as JSON lines."""
    store, project = site_of(request).store, await project_of(request)
    native = NATIVE[project.task]
    pair_only = ("votes", "ties", "both_bad") if project.task == "pair" else ()
    query = taken(
        request.query_params, "kind", "derive", "min_agreement", "min_seconds", "flagged", *pair_only
    )
    votes = query.get("votes", "each")
    if votes != "each" and votes != "mean":
        raise Rejected(f"votes is each or mean, not '{votes[:40]}'", status=422, reason="field")
    filters = Filters(
        votes=votes,
        min_agreement=_number("min_agreement", query.get("min_agreement") or "0", whole=False),
        min_seconds=_number("min_seconds", query.get("min_seconds") or "0", whole=False),
        ties=_ticked(query, "ties"),
        both_bad=_ticked(query, "both_bad"),
        flagged=_ticked(query, "flagged"),
    )
    kind = query.get("kind") or native
    derive = _ticked(query, "derive") and kind != native
    made = await run_in_threadpool(lambda: records(store, project, kind, filters=filters, derive=derive))
    actor, details = asker.annotator.name, {"kind": kind, "records": len(made.records)}
    await run_in_threadpool(lambda: store.log("export", actor=actor, project_id=project.id, **details))
    lines = (json.dumps(record_to_row(r), ensure_ascii=False) + "\n" for r in made.records)
    # A fixed name: a project's own may hold anything.
    name = f"project-{project.id}-{kind}.jsonl"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}"',
        "X-Left-Out": urlencode({k: str(v) for k, v in made.left_out.items()}),
    }
    return Response("".join(lines), media_type="application/jsonl; charset=utf-8", headers=headers)


def _ticked(query: Mapping[str, str], name: str) -> bool:
    """Whether a box is ticked, as a browser says it."""
    if query.get(name, "on") != "on":
        raise Rejected(f"{name} is 'on' or left out", status=422, reason="field")
    return name in query


_P = "/owner/{project:int}"
ROUTES = [
    Route(_P, dashboard),
    Route(_P + "/people", invite, methods=["POST"]),
    Route(_P + "/people/{person:int}/link", new_link, methods=["POST"]),
    Route(_P + "/people/{person:int}/remove", remove, methods=["POST"]),
    Route(_P + "/settings", change_settings, methods=["POST"]),
    Route(_P + "/guidelines", change_guidelines, methods=["POST"]),
    Route(_P + "/items/{item:int}", item),
    Route(_P + "/items/{item:int}/adjudicate", adjudicate),
    Route(_P + "/items/{item:int}/withdraw", withdraw, methods=["POST"]),
    Route(_P + "/export", export),
]
