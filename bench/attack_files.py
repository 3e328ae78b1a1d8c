"""Files of strangers: bombs, endless lines, deep nesting, links, model folders and whole runs."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.attack_models import VARIANTS
from bench.attack_tools import Found, child

READ = """
import sys
from alignloop.data.sources import read_rows
from alignloop.errors import UserError
try:
    print(sum(1 for _ in read_rows(sys.argv[1], on_fault=lambda fault: None)))
except UserError as error:
    print(str(error).replace(sys.argv[1], sys.argv[1].rsplit('/')[-1]), file=sys.stderr)
    sys.exit(2)
"""
MEMORY_MIB = 512
"""What reading one of these files may take at most, the interpreter included; for .json files see there."""


def _read(attack: str, tried: str, file: Path, *, most_mib: float = MEMORY_MIB) -> Found:
    done = child(["-c", READ, str(file)])
    said = done.err.strip().splitlines()[-1:] or [f"{done.out.strip()} rows"]
    happened = f"refused: {said[0]}" if done.code == 2 else said[0]
    return Found(attack, tried, happened, done.figure, done.one_sentence and done.peak_mib < most_mib)


def gz(quick: bool) -> list[Found]:
    """Small .gz files that unpack to gigabytes."""
    total = (96 if quick else 10_240) << 20
    rows = []
    with tempfile.TemporaryDirectory() as name:
        units = (("jsonl", b"\0", total), ("json", b" ", total), ("csv", b"x", total))
        # many short lines are read one by one until the ratio shows: a smaller file, or it takes an hour
        for suffix, unit, size in (*units, ("jsonl", b'{"prompt": "a"}\n', min(total, 256 << 20))):
            member = gzip.compress(unit * ((32 << 20) // len(unit)), 9)
            file = Path(name) / f"rows.{suffix}.gz"
            with file.open("wb") as packed:
                for _ in range(size // (32 << 20)):
                    packed.write(member)
            what = f"{file.stat().st_size / 2**20:.1f} MiB of {unit[:15]!r} that unpack to {size >> 20:,} MiB"
            # a .json file is read as a whole, up to 1 GiB
            rows.append(
                _read(f"gz bomb, .{suffix}.gz", what, file, most_mib=3072 if suffix == "json" else 1024)
            )
            file.unlink()
    return rows


def line(quick: bool) -> list[Found]:
    """One line without an end."""
    size = (80 if quick else 1024) << 20
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for suffix in ("jsonl", "csv") if quick else ("jsonl", "csv", "json"):
            file = Path(name) / f"rows.{suffix}"
            with file.open("wb") as written:
                written.write(b"prompt,completion\n" if suffix == "csv" else b'{"prompt": "')
                for _ in range(size >> 20):
                    written.write(b"x" * (1 << 20))
                written.write(b"x" * 1000)
            rows.append(
                _read(
                    f"a line of {size >> 20:,} MiB, .{suffix}",
                    "one text that does not end",
                    file,
                    most_mib=1536 if suffix == "json" else MEMORY_MIB,
                )
            )
            file.unlink()
    return rows


def deep(quick: bool) -> list[Found]:
    """Lists within lists, in files and in requests."""
    from alignloop.labels.faults import Rejected
    from alignloop.labels.web.annotate import json_object
    from alignloop.serve.protocol import ApiError, ChatRequest, read_body

    levels, rows = 5_000 if quick else 1_000_000, []
    value = b"[" * levels + b"]" * levels
    with tempfile.TemporaryDirectory() as name:
        for suffix in ("jsonl", "json"):
            file = Path(name) / f"rows.{suffix}"
            file.write_bytes(b'{"prompt": ' + value + b"}\n")
            rows.append(_read(f"deep JSON, .{suffix}", f"{levels:,} levels", file))
    bodies: dict[str, Callable[[bytes], object]] = {
        "serve": lambda raw: read_body(raw, ChatRequest),
        "label server": lambda raw: json_object(raw, "key"),
    }
    for server, read in bodies.items():
        said = ""
        try:
            read(b'{"messages": ' + value + b', "key": ' + value + b"}")
        except (ApiError, Rejected) as error:
            said = str(error)
        rows.append(
            Found(
                f"deep JSON, request to {server}", f"{levels:,} levels", f"400: {said[:90]}", "–", bool(said)
            )
        )
    return rows


def models(quick: bool) -> list[Found]:
    """Damaged and hostile model folders."""
    names = ["wrong shape", "overlapping offsets", "pickled weights"] if quick else list(VARIANTS)
    with tempfile.TemporaryDirectory() as place:
        done = child(["-m", "bench.attack_models", place, *names])
    rows = []
    for text in done.out.splitlines():
        row = json.loads(text)
        fine = row["kind"].endswith("Error") and not row["kind"].startswith("traceback") and not row["ran"]
        happened = f"refused: {row['message'][:170]}" if row["kind"] != "loaded" else "loaded"
        if row["name"] == "weights that are no numbers" and row["kind"] == "loaded":
            happened, fine = "loaded; training names the first such tensor before its first step", True
        rows.append(Found("model folder", row["name"], happened, "nothing executed", fine))
    if len(rows) != len(names):
        rows.append(Found("model folder", "all", f"the child ended: {done.err[-200:]}", done.figure, False))
    return rows


SOUND = "nothing wrong, to see that the commands get through"
RUNS: dict[str, dict[str, str]] = {
    SOUND: {},
    "recipe.yaml with a Python tag": {"recipe.yaml": "a: !!python/object/apply:os.system ['touch MARK']\n"},
    "recipe.yaml with aliases (10^9 values)": {
        "recipe.yaml": "a0: &a0 [x, x]\n"
        + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 30))
    },
    "recipe.yaml 100 000 deep": {"recipe.yaml": "a: " + "[" * 100_000},
    "run.json 100 000 deep": {"run.json": "[" * 100_000},
    "run.json of another shape": {"run.json": '{"schema": 1, "stage": {"a": []}}'},
    "chat template that reaches for Python": {
        "model/chat_template.jinja": "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    },
    "chat template that never ends": {
        "model/chat_template.jinja": "{% for a in range(99999) %}{% for b in range(99999) %}x"
        "{% endfor %}{% endfor %}"
    },
}


def runs(quick: bool) -> list[Found]:
    """`evaluate`, `report` and `runs` of a folder that somebody sent."""
    rows = []
    wanted = list(RUNS)[:2] if quick else list(RUNS)
    with tempfile.TemporaryDirectory() as place:
        done = child(["-c", RUN_ALL, place, *wanted], timeout_s=900)
    for text in done.out.splitlines():
        row = json.loads(text)
        rows.append(
            Found(
                f"`{row['command']}` of a stranger's run",
                row["name"],
                f"exit code {row['code']}: {row['said'][:160]}",
                "nothing executed" if not row["ran"] else "EXECUTED",
                row["fine"],
            )
        )
    if not rows:
        rows.append(
            Found("a stranger's run", "all", f"the child ended: {done.err[-200:]}", done.figure, False)
        )
    return rows


RUN_ALL = """
import json, shutil, sys
from pathlib import Path
from typer.testing import CliRunner
from alignloop.cli import app
from alignloop.model.save import save_model
from alignloop.model.tiny import tiny_model
from bench.attack_files import RUNS, SOUND
place = Path(sys.argv[1])
save_model(*tiny_model(), place / 'start')
rows = place / 'prompts.jsonl'
rows.write_text(''.join('{"prompt": "hi %d"}\\n' % i for i in range(4)))
for name in sys.argv[2:]:
    folder, mark = place / 'run', place / 'executed'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copytree(place / 'start', folder / 'model')
    record = {'schema': 1, 'name': 'x', 'stage': 'sft', 'status': 'finished', 'fingerprint': 'f' * 64}
    record |= {'work_sha256': '0' * 64, 'warnings': []}
    (folder / 'run.json').write_text(json.dumps(record))
    (folder / 'recipe.yaml').write_text('stage: sft\\n')
    (folder / 'metrics.jsonl').write_text('')
    for file, text in RUNS[name].items():
        (folder / file).write_text(text.replace('MARK', str(mark)))
    commands = {
        'evaluate': ['evaluate', 'before=tiny', f'after={folder}', f'dataset={rows}', 'max_new_tokens=4',
                     f'output_dir={place}/out-{sys.argv.index(name)}'],
        'report': ['report', str(folder)],
        'runs': ['runs', 'list', str(place)],
    }
    for command, words in commands.items():
        done = CliRunner().invoke(app, words)
        last = (done.output.strip().splitlines() or [''])[-1]
        broke = done.exception is not None and not isinstance(done.exception, SystemExit)
        said = repr(done.exception)[:150] if broke else last
        row = {'name': name, 'command': command, 'code': done.exit_code, 'ran': mark.exists()}
        fine = not broke and not mark.exists() and (done.exit_code == 0 or name != SOUND)
        row |= {'said': said.replace(str(place), ''), 'fine': fine}
        print(json.dumps(row), flush=True)
"""


def links(quick: bool) -> list[Found]:
    """Links, pipes and devices where files are expected."""
    from alignloop.data.sources import read_rows
    from alignloop.errors import DiskError, UserError
    from alignloop.io import append_line
    from alignloop.labels.web.server import session_secret
    from alignloop.report.folder import read_run

    rows = []
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        victim = place / "victim"
        victim.write_text("s3cret", encoding="utf-8")
        run, labels = place / "run", place / "labels"
        run.mkdir()
        labels.mkdir()
        (run / "run.json").write_text("{}", encoding="utf-8")
        for file in ("recipe.yaml", "samples.jsonl", "metrics.jsonl"):
            (run / file).symlink_to(victim)
        shown = read_run(run)
        rows.append(
            Found("links in a run folder", "recipe.yaml, samples and metrics link to another file; `report`",
                  shown.problems[0], f"{len(shown.problems)} notes", "s3cret" not in repr(shown))
        )  # fmt: skip
        said = ""
        try:
            append_line(run / "metrics.jsonl", {"step": 1})
        except DiskError as error:
            said = str(error).replace(name, "")
        kept = victim.read_text(encoding="utf-8") == "s3cret"
        rows.append(
            Found("links in a run folder", "a run goes on and appends", f"refused: {said}", "–", kept)
        )
        (labels / "session.new").symlink_to(victim)
        session_secret(labels)
        kept = victim.read_text(encoding="utf-8") == "s3cret"
        rows.append(
            Found("links in a label folder", "session.new links to another file",
                  "the other file stays as it is", "–", kept)
        )  # fmt: skip
        (place / "rows.jsonl").symlink_to("/dev/zero")
        os.mkfifo(place / "pipe.jsonl")
        for file in ("rows.jsonl", "pipe.jsonl"):
            said = ""
            try:
                list(read_rows(str(place / file)))
            except UserError as error:
                said = str(error).replace(name, "")
            rows.append(Found("devices and pipes as data", file, f"refused: {said}", "–", bool(said)))
    rows.append(_static())
    return rows


def _static() -> Found:
    from alignloop.web.pages import static_files

    names = static_files("alignloop.labels.web")
    held = not any(".." in name or name.startswith("/") for name in names)  # KaTeX's are in a folder
    return Found(
        "links and paths in served files", "names such as ../app.py, %2e%2e, links beside the page's files",
        "files are read once at the start; no request names a path", f"{len(names)} names", held,
    )  # fmt: skip


def encodings(quick: bool) -> list[Found]:
    """A request that says it is packed."""
    from alignloop.serve.protocol import ApiError, ChatRequest, read_body

    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed:
        packed.write(b" " * (8 << 20))
    said = ""
    try:
        read_body(buffer.getvalue(), ChatRequest)
    except ApiError as error:
        said = f"{error.status}: {error.message[:90]}"
    return [
        Found(
            "packed request (Content-Encoding: gzip)",
            f"{len(buffer.getvalue()) / 1024:.0f} KiB that unpack to 8 MiB",
            f"not unpacked; {said}",
            "–",
            bool(said),
        )
    ]
