"""Attacks on files, models, runs and the labelling server: what was tried, what happened, with figures.

    python bench/attack.py                    # everything, an hour on two cores
    python bench/attack.py --only gz --quick  # one attack with small sizes
    python bench/attack.py --write            # and write docs/results/hardening.md
    python bench/attack.py --write --from rows.jsonl

Nothing leaves this machine; servers listen on its loopback addresses. PostgreSQL is started from Debian's
package for the time of the attack (bench/postgres.py). The exit code is 1 if anything fell.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alignloop.io import write_whole
from alignloop.machine import cpu_name
from bench import attack_files, attack_label, attack_people
from bench.attack_tools import ROOT, Found

PAGE = ROOT / "docs" / "results" / "hardening.md"

ATTACKS: Mapping[str, Callable[[bool], list[Found]]] = {
    "gz": attack_files.gz,
    "line": attack_files.line,
    "deep": attack_files.deep,
    "encodings": attack_files.encodings,
    "links": attack_files.links,
    "models": attack_files.models,
    "runs": attack_files.runs,
    "clock": attack_people.clock,
    "sessions": attack_people.sessions,
    "formulas": attack_label.formulas,
    "connections": attack_label.connections,
    "postgres": attack_label.postgres,
    "million": attack_label.million,
}

HEAD = """# Under attack

Written by `python bench/attack.py --write`; `--only NAME` tries one attack, `--quick` small sizes. A row that
says "held" is as it should be: nothing executed, nothing acknowledged lost, memory bounded, one sentence with
the file and what is accepted, exit code 2.

Machine: {machine}.

| attack | tried | what happened | figure | |
| --- | --- | --- | --- | --- |
"""


def machine() -> str:
    """Processor, cores, memory."""
    cores, busy = os.cpu_count(), os.getloadavg()[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{cpu_name()}, {cores} cores, {memory:.0f} GiB; load {busy:.0f} when the page was written"


def page(rows: Sequence[Found], *, told: str) -> str:
    """The page's text."""
    cells = ((r.attack, r.tried, r.happened, r.figure, "held" if r.held else "**fell**") for r in rows)
    lines = ("| " + " | ".join(_cell(text) for text in row) + " |" for row in cells)
    return HEAD.format(machine=told) + "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    plain = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return "".join(character if character.isprintable() else "�" for character in plain)


def main(words: Sequence[str] | None = None) -> int:
    """Try, print, and write the page if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=sorted(ATTACKS), default=[])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(ROOT)}")
    parser.add_argument("--json", metavar="FILE", help="add each row to this file as a line")
    parser.add_argument(
        "--from", dest="rows", metavar="FILE", help="rows of an earlier --json, not tried again"
    )
    chosen = parser.parse_args(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ended early, it still stops its servers
    found: list[Found] = []
    if chosen.rows:
        text = Path(chosen.rows).read_text(encoding="utf-8")
        found = [Found(**json.loads(line)) for line in text.splitlines() if line.strip()]
    for name in [] if chosen.rows and not chosen.only else chosen.only or list(ATTACKS):
        began = time.perf_counter()
        for row in ATTACKS[name](chosen.quick):
            found.append(row)
            print(
                f"{'held' if row.held else 'FELL'}  {row.attack}: {row.tried} → {row.happened} ({row.figure})"
            )
            if chosen.json:
                with open(chosen.json, "a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(row), ensure_ascii=False) + "\n")
        print(f"      {name}: {time.perf_counter() - began:.0f} s", flush=True)
    if chosen.write:
        write_whole(PAGE, page(found, told=machine()))
    return 0 if all(row.held for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
