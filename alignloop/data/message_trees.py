"""Trees of messages, each with ranked replies: single rows joined by parent ids, and whole trees as they are.

A tree is one row `{"message_tree_id": …, "prompt": {"text", "role", "rank", "replies": […]}}`, as
OpenAssistant exports it. Its view is one conversation along the best replies (rank 0 the best), every
comparison of ranked answers, or every question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from alignloop.data import values as read
from alignloop.data.messages import ROLES
from alignloop.data.source_files import SourceRow
from alignloop.errors import DataError

_MESSAGE = ("message_id", "parent_id", "text", "role")
"""Columns by which a row that is one message of a tree is told."""
_READ = {*_MESSAGE, "rank", "deleted", "message_tree_id", "tree_state"}

Node = Mapping[str, Any]


def is_message(row: Mapping[str, object]) -> bool:
    """Whether a row is one message of a tree."""
    return all(name in row for name in _MESSAGE) and not any(name in row for name in ("messages", "replies"))


def joined(rows: Iterable[SourceRow], report: Callable[[DataError], None]) -> Iterator[SourceRow]:
    """Rows with the messages of trees joined, each tree in the place of its first message.

    Deleted messages are left out with what answers them, as are answers to messages that are not there;
    each is reported. Rows of any other form go through as they are.

    Args:
        rows: of one source.
        report: called for each message that is left out.

    Yields:
        The rows; if the first one is a message, trees.

    Raises:
        DataError: what `report` raises.
    """
    found = iter(rows)
    first = next(found, None)
    if first is None:
        return
    if not is_message(first.values):
        yield from chain([first], found)
        return
    yield from _trees([first, *found], report)


def _trees(rows: list[SourceRow], report: Callable[[DataError], None]) -> Iterator[SourceRow]:
    nodes: dict[str, dict[str, Any]] = {}
    roots: list[tuple[dict[str, Any], SourceRow]] = []
    for row in rows:
        if is_message(row.values):
            name = str(row.values["message_id"])
            nodes[name] = {**row.values, "replies": []}
    for row in rows:
        fault = _unusable(row, nodes)
        if fault is not None:
            report(DataError(fault[0], file=row.file, line=row.line, reason=fault[1]))
            continue
        node = nodes[str(row.values["message_id"])]
        parent = row.values["parent_id"]
        if parent in (None, ""):
            roots.append((node, row))
        else:
            nodes[str(parent)]["replies"].append(node)
    for node, row in roots:
        rest = {name: value for name, value in row.values.items() if name not in _READ}
        tree = {"message_tree_id": row.values["message_id"], "prompt": _bare(node)}
        yield SourceRow({**rest, **tree}, row.file, row.line)


def _bare(node: Node) -> dict[str, Any]:
    """A message with what a conversation is made of, and its replies likewise."""
    kept = {name: node[name] for name in ("text", "role", "rank") if node.get(name) is not None}
    return {**kept, "replies": [_bare(reply) for reply in node["replies"]]}


def _unusable(row: SourceRow, nodes: Mapping[str, Node]) -> tuple[str, str] | None:
    """Why a message is in no tree, and the reason's name; None if it is in one."""
    if not is_message(row.values):
        return "expected a message with message_id, parent_id, text and role like the first row", "other_kind"
    if read.is_true(row.values.get("deleted")):
        return "the message was deleted", "deleted"
    seen, above = {str(row.values["message_id"])}, row.values["parent_id"]
    while above not in (None, ""):
        parent = nodes.get(str(above))
        if parent is None or str(above) in seen:
            return f"answers the message {above}, which is not in the file", "no_parent"
        if read.is_true(parent.get("deleted")):
            return "answers a deleted message", "deleted"
        seen.add(str(above))
        above = parent["parent_id"]
    return None


def conversation(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The conversation along the best replies, up to the last answer.

    Raises:
        DataError: nobody answered, or a message without text or role.
    """
    node: Node | None = row["prompt"]
    path: list[Node] = []
    while node is not None:
        path.append(node)
        node = min(_replies(node), key=_rank, default=None)
    while path and _role(path[-1]) != "assistant":
        path.pop()
    if not path:
        raise DataError("nobody answered this question", field="replies", reason="unanswered")
    return [{"messages": _messages(path)}]


def comparisons(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One ranking for each question with at least two ranked answers.

    Raises:
        DataError: no question has them.
    """
    found = []
    for path, answers in _answered(row["prompt"]):
        ranked = [answer for answer in answers if answer.get("rank") is not None]
        if len(ranked) > 1:
            order = [_rank(answer) for answer in ranked]
            ranks = [1 + sum(other < rank for other in order) for rank in order]
            texts = [answer["text"] for answer in ranked]
            found.append({"prompt": _messages(path), "responses": texts, "ranking": ranks})
    if not found:
        raise DataError("no question has two ranked answers", field="rank", reason="unranked")
    return found


def pairs(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every two answers of a question with different ranks, the better one chosen."""
    return [
        {"prompt": one["prompt"], "chosen": better, "rejected": worse}
        for one in comparisons(row)
        for better, rank in zip(one["responses"], one["ranking"], strict=True)
        for worse, other in zip(one["responses"], one["ranking"], strict=True)
        if rank < other
    ]


def questions(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every question with what was said before it."""
    return [{"prompt": _messages(path)} for path, _ in _answered(row["prompt"])]


def _answered(root: Node) -> Iterator[tuple[list[Node], list[Node]]]:
    """The way to each question, and its answers."""
    pending: list[list[Node]] = [[root]]
    while pending:
        path = pending.pop(0)
        replies = _replies(path[-1])
        pending += [[*path, reply] for reply in replies]
        if _role(path[-1]) == "user":
            yield path, [reply for reply in replies if _role(reply) == "assistant"]


def _replies(node: Node) -> list[Node]:
    return [reply for reply in node.get("replies") or () if not read.is_true(reply.get("deleted"))]


def _rank(node: Node) -> float:
    """Rank among its siblings, 0 the best; those without one come last."""
    rank = node.get("rank")
    return float("inf") if rank in (None, "") else read.number(rank, "rank", 0, 1e6)


def _role(node: Node) -> str:
    role = ROLES.get(str(node.get("role")).strip().casefold())
    if role not in ("user", "assistant"):
        raise DataError(
            "expected prompter or assistant", field="role", value=node.get("role"), reason="unknown_role"
        )
    return role


def _messages(path: Iterable[Node]) -> list[dict[str, Any]]:
    return [{"role": _role(node), "content": node.get("text")} for node in path]
