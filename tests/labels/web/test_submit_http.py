"""`alignloop label submit` against a running server and into a folder."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from alignloop.cli.label import app
from alignloop.errors import UserError
from alignloop.labels import people
from tests.labels.test_submit import PAIRS, project_with, write
from tests.labels.web.browsing import rows


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_file_goes_to_a_server_once(server, tmp_path):
    project = project_with(server.store, write(tmp_path, PAIRS[:2], "queued.jsonl"), "pair")
    _, token = people.invite(server.store, project, "program")
    file, link = write(tmp_path, PAIRS), f"{server.url}/invite/{token}"
    said = run("submit", file, link)
    assert "3 judgements: 2 stored, 0 were there already" in said
    assert "left out: 1 the project has no item with this prompt and these answers" in said
    assert "judged.jsonl:3" in said
    assert "2 were there already" in run("submit", file, link)
    assert [row.action for row in rows(server.store)] == ["judge", "judge"]
    with pytest.raises(UserError, match="leave --annotator"):
        CliRunner().invoke(app, ["submit", file, link, "--annotator", "x"], catch_exceptions=False)
    with pytest.raises(UserError, match="refuses the invitation"):
        CliRunner().invoke(app, ["submit", file, f"{server.url}/invite/wrong"], catch_exceptions=False)


def test_a_file_goes_into_a_folder(tmp_path):
    folder, file = tmp_path / "labels", write(tmp_path, PAIRS)
    run("import", folder, file)
    with pytest.raises(UserError, match="--annotator NAME"):
        CliRunner().invoke(app, ["submit", file, str(folder)], catch_exceptions=False)
    assert "3 judgements: 3 stored" in run("submit", file, folder, "--annotator", "김하나")
    shown = json.loads(run("status", folder, "--json"))
    assert [(p["name"], p["judged"]) for p in shown["people"]] == [("김하나", 3)]
    assert "3 records from 3 judgements" in run("export", folder, tmp_path / "out.jsonl")


def test_a_request_that_names_no_item_is_refused(served):
    project = served.store.create_project("p", task="pair")
    person = served.sign_in(project, "a")
    for body, status in (
        ({"prompt": "text", "answers": []}, 422),
        ({"prompt": [{"role": "user", "content": "q"}], "answers": [1]}, 422),
        ({"prompt": [{"role": "user", "content": "q"}], "answers": ["a"] * 9}, 422),
        ({"prompt": [{"role": "user", "content": "q"}], "answers": ["a", "b"], "x": 1}, 422),
        ({"prompt": [{"role": "user", "content": "q"}], "answers": ["a", "b"]}, 404),
    ):
        assert person.call("open", body).status_code == status
