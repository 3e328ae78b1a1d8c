"""`alignloop label` from import to export, and the server as a process that gets killed."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alignloop.cli.label import app
from alignloop.data.columns import read_records
from alignloop.errors import UserError
from alignloop.labels.judging import Desk
from alignloop.labels.messages import Session, Submission
from alignloop.labels.store import Store

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: object) -> str:
    """Output of a command that succeeds."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def fails(*arguments: object) -> str:
    """Message of a command that ends in a sentence."""
    with pytest.raises(UserError) as caught:
        CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    return str(caught.value)


def answers_file(folder: Path, *, prompts: int, answers: int) -> Path:
    """Rows of several answers to each prompt, in Korean."""
    rows = [
        {"prompt": f"질문 {n}", "responses": [f"답 {n} {k}" for k in range(answers)]} for n in range(prompts)
    ]
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return answers_file(tmp_path, prompts=6, answers=4)


def judge_everything(folder: Path, token: str) -> None:
    from alignloop.labels import people

    store = Store(folder / "labels.sqlite")
    annotator = people.by_token(store, token)
    assert annotator is not None
    desk, session = Desk(store), Session(annotator.id, annotator.epoch)
    receipt = desk.call(lambda c: desk.next(c, session))
    while receipt.task is not None:
        sent = Submission(receipt.task.id, f"k{receipt.task.id}", answer={"verdict": "a_much"})
        receipt = desk.call(lambda c, sent=sent: desk.submit(c, session, sent))
    store.close()


def test_import_invite_judge_status_export(tmp_path, data):
    folder = tmp_path / "labels"
    assert "6 items added, 0 were there" in run("import", folder, data)
    assert "0 items added, 6 were there" in run("import", folder, data)
    link = run("invite", folder, "김하나", "--language", "ko", "--url", "https://label.example/").strip()
    assert link.startswith("https://label.example/invite/")
    fresh = run("invite", folder, "김하나").strip()
    assert fresh.rsplit("/", 1)[1] != link.rsplit("/", 1)[1]
    judge_everything(folder, fresh.rsplit("/", 1)[1])
    shown = json.loads(run("status", folder, "--json"))
    assert (shown["num_items"], shown["people"][0]["name"], shown["people"][0]["judged"]) == (6, "김하나", 6)
    assert "김하나: 6 judged" in run("status", folder)
    said = run("export", folder, tmp_path / "pairs.jsonl")
    assert "6 records from 6 judgements" in said
    assert "2 records from 2" in run("export", folder, tmp_path / "p2.jsonl", "--after", 2, "--until", 4)
    assert "other guidelines" in fails("export", folder, tmp_path / "x.jsonl", "--guideline", 2)
    records = read_records(tmp_path / "pairs.jsonl").records
    assert {r.provenance.origin for r in records} == {"human"}
    assert "cannot give rating" in fails("export", folder, tmp_path / "x.jsonl", "--kind", "rating")
    assert "too fast" in fails("export", folder, tmp_path / "x.jsonl", "--min-seconds", "1e6")
    assert not (tmp_path / "x.jsonl").exists()


def test_a_ranking_project_exports_preferences_only_when_asked(tmp_path, data):
    folder = tmp_path / "labels"
    run("import", folder, data, "--task", "ranking", "--project", "순위")
    assert "--derive" in fails("export", folder, tmp_path / "x.jsonl", "--kind", "preference")


def test_a_plan_from_points(tmp_path):
    prices = ("--price-pair", 1, "--price-demonstration", 5)
    plan = ("plan", "--budget", 1000, *prices)
    said = run(*plan, "--curve", "100:0.6", "--curve", "200:0.63", "--curve", "400:0.65")
    assert "reward-model accuracy expected 0.6" in said
    assert "unknown" in run(*plan)
    assert "LABELS:ACCURACY" in fails(*plan, "--curve", "100")
    assert "at least 3" in fails(*plan, "--curve", "100:0.5")
    assert "does not buy" in fails("plan", "--budget", 0.5, *prices)
    assert "--price-pair" in fails("plan", "--budget", 1000)


def test_a_plan_from_a_projects_models(tmp_path, data):
    folder = tmp_path / "labels"
    run("import", folder, data)
    store = Store(folder / "labels.sqlite")
    for count, accuracy in ((10, 0.55), (20, 0.6), (40, 0.63)):
        store.record_model(
            store.project(), kind="reward", path="r", judgement_ids=list(range(count)), accuracy=accuracy
        )
    store.close()
    prices = ("--price-pair", 1, "--price-demonstration", 5)
    assert "from 3 points" in run("plan", folder, "--budget", 500, *prices)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status", "nowhere"), "holds no labels"),
        (("export", "nowhere", "x.jsonl"), "holds no labels"),
        (("invite", "nowhere", "x"), "holds no labels"),
        (("serve", "nowhere"), "does not exist"),
        (("invite", "nowhere", "x", "--language", "fr"), "en or ko"),
        (("export", "nowhere", "x.jsonl", "--votes", "all"), "each or mean"),
        (("import", "new", "nothing.jsonl"), "nothing.jsonl"),
        (("serve", "nowhere", "--pairs", "two"), "one or all"),
    ],
)
def test_faults_are_one_sentence(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in fails(*arguments)


def start(*arguments: object, cwd: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-c",
        "from alignloop.cli.label import app; app()",
        "serve",
        *map(str, arguments),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd, env=environment
    )


def test_serving_a_data_file_makes_a_folder_with_private_secrets(tmp_path, data):
    server = start(data, "--task", "ranking", "--port", 0, cwd=tmp_path)
    try:
        assert server.stdout is not None
        lines = [server.stdout.readline() for _ in range(3)]
        assert "6 items added" in lines[0]
        link = lines[1].split()[1]
        with urllib.request.urlopen(link, timeout=20) as answer:
            assert "AlignLoop" in answer.read().decode()
        # told nothing, it listens on 127.0.0.1 and no other address of this machine
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", urllib.parse.urlsplit(link).port or 0), timeout=20)
        folder = tmp_path / "samples-labels"
        for name in ("session.key", "owner.token"):
            assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
        invited = run("invite", folder, "김하나").split()[0]
        assert urllib.parse.urlsplit(invited).port == urllib.parse.urlsplit(link).port
        with urllib.request.urlopen(invited, timeout=20) as answer:
            assert "/login" in answer.read().decode()
        token = (folder / "owner.token").read_text(encoding="utf-8")
        assert link.endswith(token)
        again = start(folder, "--port", 0, cwd=tmp_path)
        output, _ = again.communicate(timeout=60)
        assert "being served already" in output
    finally:
        server.kill()
        server.wait()
    fresh = start(folder, "--port", 0, cwd=tmp_path)
    try:
        assert fresh.stdout is not None
        assert fresh.stdout.readline().strip().endswith(token)
    finally:
        fresh.kill()
        fresh.wait()


def test_colleagues_get_addresses_and_links_that_they_can_open(tmp_path, data, monkeypatch):
    from alignloop.labels.web import addresses, server
    from alignloop.web.server import listen

    monkeypatch.setattr(addresses, "machine_addresses", lambda: ["10.1.2.3"])
    monkeypatch.setattr(server, "run", lambda *_, **__: None)
    monkeypatch.setattr(server, "listen", lambda host, port: listen("127.0.0.1", port))
    folder = tmp_path / "labels"
    run("import", folder, data)
    run("import", folder, data, "--task", "ranking", "--project", "순위")
    said = run("serve", folder, "--host", "0.0.0.0", "--port", 0)
    port = re.search(r"owner:  http://127.0.0.1:(\d+)/", said)[1]
    assert f"colleagues: http://10.1.2.3:{port}\n" in said
    # One link for both projects, at the port that is in use.
    link = run("invite", folder, "김하나").strip()
    assert link.startswith(f"http://10.1.2.3:{port}/invite/")
    for project in ("labels", "순위"):
        (person,) = json.loads(run("status", folder, "--json", "--project", project))["people"]
        assert person["name"] == "김하나"
    assert "Only this machine" in run("serve", folder, "--port", 0)
    alone = run("invite", folder, "이둘", "--project", "순위")
    assert "Only this machine can open the link" in alone
    assert json.loads(run("status", folder, "--json", "--project", "labels"))["people"][1:] == []


def test_a_taken_port(tmp_path, data):
    folder = tmp_path / "labels"
    run("import", folder, data)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "choose another --port" in fails("serve", folder, "--port", taken.getsockname()[1])


def test_kill_9_under_load_loses_and_doubles_nothing():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(ROOT / "bench" / "label_server.py"), "kill", "--json"]
    command += ["--kills", "2", "--items", "2000", "--annotators", "6", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["acknowledged"] > 0
    assert found["sent_again"] > 0
    assert (found["lost"], found["double"], found["never_sent"]) == (0, 0, 0)
