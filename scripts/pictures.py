"""Takes the pictures of docs/img: the labelling page with two tasks, and a run's report.

python scripts/pictures.py RUN      RUN is a finished pipeline, such as runs/quickstart-tiny

Needs Chromium and the extra `dev`. Each picture is a PNG below 300 kB.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
IMG = ROOT / "docs" / "img"
MAX_BYTES = 300_000
ALIGNLOOP = [sys.executable, "-m", "alignloop"]
READY = "() => document.getElementById('work')?.getAttribute('aria-busy') === 'false'"
PAIR = {
    "prompt": "What is the sum of the first n odd numbers, and why?",
    "responses": [
        "The sum is \\(n^2\\).\n\nThe k-th odd number is \\(2k - 1\\), so\n\n"
        "$$\\sum_{k=1}^{n} (2k - 1) = n(n + 1) - n = n^2.$$",
        "It is **n squared**. You can see it if you try: 1, 1 + 3 = 4, 1 + 3 + 5 = 9.",
    ],
}
RANKING = {
    "prompt": "이차방정식 \\(x^2 - 5x + 6 = 0\\) 의 해를 구하세요.",
    "responses": [
        "인수분해하면 \\((x - 2)(x - 3) = 0\\) 이므로 해는 \\(x = 2\\) 또는 \\(x = 3\\) 입니다.",
        "근의 공식을 쓰면\n\n$$x = \\frac{5 \\pm \\sqrt{25 - 24}}{2} = \\frac{5 \\pm 1}{2}$$\n\n"
        "이므로 \\(x = 2, 3\\) 입니다.",
        "해는 5와 6입니다.",
    ],
}


@contextmanager
def page_of(row: dict, task: str, folder: Path) -> Iterator[str]:
    """An invitation to a labelling page that shows one row."""
    data, labels = folder / f"{task}.jsonl", folder / task
    data.write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    words = ["label", "serve", str(data), "--task", task, "--folder", str(labels), "--port", "0"]
    server = subprocess.Popen([*ALIGNLOOP, *words], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if line.startswith("invite:"):
                break
        invite = [
            *ALIGNLOOP,
            "label",
            "invite",
            str(labels),
            "Minji",
            "--language",
            "ko" if task == "ranking" else "en",
        ]
        yield subprocess.run(invite, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    finally:
        server.terminate()
        server.wait()


def label_picture(page: Page, row: dict, task: str, keys: str) -> None:
    """The page after some keys were pressed, as docs/img/label-TASK.png."""
    with tempfile.TemporaryDirectory() as folder, page_of(row, task, Path(folder)) as link:
        page.goto(link)
        page.click("button.primary")
        page.wait_for_function(READY)
        if page.is_visible("#guide-read"):
            page.click("#guide-read")
        page.wait_for_timeout(500)  # formulas are drawn
        for key in keys:
            page.keyboard.press(key)
        save(page, f"label-{task}.png")


def save(page: Page, name: str) -> None:
    """Write a picture of what the window shows; a picture that is too large is an error."""
    IMG.mkdir(exist_ok=True)
    size = len(page.screenshot(path=IMG / name))
    if size > MAX_BYTES:
        raise SystemExit(f"{name} has {size} bytes, more than {MAX_BYTES}")
    print(f"docs/img/{name}: {size} bytes")


def main(run: str) -> None:
    """Take every picture."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1200, "height": 760}).new_page()
        label_picture(page, PAIR, "pair", "")
        label_picture(page, RANKING, "ranking", "ab")
        file = Path(folder) / "report.html"
        subprocess.run([*ALIGNLOOP, "report", run, "--output", str(file)], check=True)
        page.goto(file.as_uri())
        page.wait_for_timeout(500)
        save(page, "report.png")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
