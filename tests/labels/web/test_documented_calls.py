"""The program in docs/label_api.md runs as it stands there, for every task in its table."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from alignloop.labels import people
from alignloop.labels.tasks import ANSWER_COUNTS, SKIP_REASONS
from alignloop.labels.web.annotate import ROUTES, SUBMISSION
from tests.labels.web.browsing import project_of, rows

PAGE = (Path(__file__).parents[3] / "docs" / "label_api.md").read_text(encoding="utf-8")


def documented() -> dict[str, dict]:
    """Task → the answer that the page's table shows for it."""
    found = re.findall(r"^\| `(\w+)` \| `(\{.*?\})`", PAGE.split("## Answers by task")[1], re.MULTILINE)
    return {task: json.loads(body.replace(", …", "")) for task, body in found}


@pytest.mark.parametrize("task", ANSWER_COUNTS)
def test_a_program_judges(server, task):
    scope: dict = {"__name__": "docs"}
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/label_api.md", "exec"), scope)
    answers = 3 if task == "ranking" else 2
    project = project_of(server.store, task, count=4, num_answers=answers, attributes=("helpfulness",))
    _, token = people.invite(server.store, project, "program")
    client = scope["sign_in"](f"{server.url}/invite/{token}")
    assert scope["judge_all"](client, lambda shown: documented()[shown["kind"]]) == 4
    client.close()
    stored = rows(server.store)
    assert len(stored) == 4
    if task == "ranking":
        assert all([row.answer["ranks"][i] for i in row.display_order] == [2, 1, 1] for row in stored)


def test_every_call_and_field_is_documented():
    calls = PAGE.split("## Calls")[1].split("## Answers by task")[0]
    paths = {route.path.partition("{")[0].rstrip("/") for route in ROUTES if route.path.startswith("/api/")}
    assert paths == set(re.findall(r"`(/api/\w+)", calls))
    row = next(line for line in calls.splitlines() if line.startswith("| `/api/judge`"))
    assert set(SUBMISSION) == set(re.findall(r"`(\w+)`", row.split("|")[2]))
    assert all(f"`{reason}`" in PAGE for reason in SKIP_REASONS)
