"""Settings of pip and uv: which one counts, what they mean, and what is said of a transfer."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from alignloop.errors import ModelError
from alignloop.model import package_index
from alignloop.model.package_index import (
    _find,
    _shown,
    _told,
    _Transfer,
    default_index,
    fetch,
    index_settings,
)
from tests.model.test_package_index import CONTENT, FILE, SHA256, no_settings  # noqa: F401 - a fixture for all


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def own_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_index, "default_index", lambda: "https://usual.example/simple")


def test_without_settings_the_usual_index_is_asked() -> None:
    found = index_settings()
    assert (found.indexes, found.folders, found.certificate) == (["https://usual.example/simple"], [], "")


@pytest.mark.parametrize(
    "names", [("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), ("UV_DEFAULT_INDEX", "UV_INDEX_URL"), ("UV_INDEX_URL",)]
)
def test_the_first_of_the_main_indexes_counts(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(names):
        monkeypatch.setenv(name, f"https://{number}.example/simple")
    assert index_settings().indexes == ["https://0.example/simple"]
    monkeypatch.setenv(names[0], "")
    wanted = "https://1.example/simple" if len(names) > 1 else "https://usual.example/simple"
    assert index_settings().indexes == [wanted]


def test_further_indexes_are_asked_first_and_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://a.example https://b.example")
    monkeypatch.setenv("UV_INDEX", "my.in-dex=https://c.example https://a.example")
    monkeypatch.setenv("UV_EXTRA_INDEX_URL", "file:///d")
    a, b, c = (f"https://{name}.example" for name in "abc")
    assert index_settings().indexes == [a, b, c, "file:///d", "https://usual.example/simple"]
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert index_settings().indexes == []


def test_links_are_folders_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = tmp_path / "a", tmp_path / "b c", tmp_path / "home" / "d"
    for folder in (first, second, third):
        folder.mkdir(parents=True)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{first},{tmp_path / 'file'}")
    monkeypatch.setenv("UV_FIND_LINKS", f"{second.as_uri()}  ~/d https://page.example")
    assert index_settings().folders == [first, second, third]


@pytest.mark.parametrize(
    ("pip", "other", "wanted"), [("/p", "/s", "/p"), ("", "/s", "/s"), ("/p", "", "/p"), ("", "", "/f")]
)
def test_certificates(
    pip: str, other: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "config" / "pip" / "pip.conf", "[global]\ncert = /f\n")
    monkeypatch.setenv("PIP_CERT", pip)
    monkeypatch.setenv("SSL_CERT_FILE", other)
    assert index_settings().certificate == wanted


def test_the_order_of_pips_files_and_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that the environment names, the interpreter's, the user's, the system's; the command's section
    before the general one."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", os.pathsep.join(["", str(tmp_path / "xdg")]))
    monkeypatch.setattr(package_index, "_SYSTEM_FILES", (tmp_path / "etc" / "pip.conf",))
    home = tmp_path / "home"
    files = [
        tmp_path / "named.conf",
        tmp_path / "venv" / "pip.conf",
        tmp_path / "config" / "pip" / "pip.conf",
        home / ".pip" / "pip.conf",
        home / "Library" / "Application Support" / "pip" / "pip.conf",
        tmp_path / "xdg" / "pip" / "pip.conf",
        tmp_path / "etc" / "pip.conf",
    ]
    monkeypatch.setenv("PIP_CONFIG_FILE", str(files[0]))
    for number, file in enumerate(files):
        write(
            file,
            f"[global]\nindex-url = https://{number}.example\nextra-index-url = https://x{number}.example\n"
            f"find-links = {tmp_path / 'home'}\n",
        )
    further = [f"https://x{number}.example" for number in range(len(files))]
    for number, file in enumerate(files):
        assert index_settings().indexes == [*further[number:], f"https://{number}.example"]
        assert index_settings().folders == [home] * (len(files) - number)
        file.unlink()
    sections = "".join(
        f"[{name}]\nindex-url = https://{name}.example\n" for name in ("global", "install", "download")
    )
    write(files[2], sections)
    assert index_settings().indexes == ["https://download.example"]
    write(files[2], sections.partition("[download]")[0])
    assert index_settings().indexes == ["https://install.example"]
    monkeypatch.delenv("XDG_CONFIG_HOME")
    write(home / ".config" / "pip" / "pip.conf", "[global]\nindex-url = https://home.example\n")
    assert index_settings().indexes == ["https://home.example"]
    (home / ".config" / "pip" / "pip.conf").write_bytes(b"\xff\xfe\x00")
    assert index_settings().indexes == ["https://usual.example/simple"]


def test_uvs_file_in_both_of_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(
        tmp_path / "config" / "uv" / "uv.toml",
        'index-url = "https://main.example"\nextra-index-url = ["https://x.example", "https://y.example"]\n'
        f'find-links = ["{tmp_path}"]\n'
        '[[index]]\nname = "no-url"\n[[index]]\nurl = "https://more.example"\n'
        f'[pip]\nindex-url = "https://pip.example"\nextra-index-url = ["https://z.example"]\n',
    )
    more, x, y, z = (f"https://{name}.example" for name in ("more", "x", "y", "z"))
    found = index_settings()
    assert found.indexes == [more, x, y, z, "https://main.example"]
    assert found.folders == [tmp_path]
    write(file, '[pip]\nindex-url = "https://pip.example"\n')
    assert index_settings().indexes == ["https://pip.example"]
    write(file, 'index = ["no table"]\n')
    assert index_settings().indexes == ["https://usual.example/simple"]
    write(file, "no toml")
    assert index_settings().indexes == ["https://usual.example/simple"]
    file.unlink()
    monkeypatch.delenv("XDG_CONFIG_HOME")
    write(tmp_path / "home" / ".config" / "uv" / "uv.toml", 'index-url = "https://home.example"\n')
    assert index_settings().indexes == ["https://home.example"]


def answers(pages: dict[str, httpx.Response]) -> httpx.Client:
    return httpx.Client(
        transport=httpx.MockTransport(lambda request: pages[str(request.url)]), follow_redirects=True
    )


def test_the_page_of_a_package_and_its_links() -> None:
    page = "https://index.example/simple/some-model/"
    moved = "https://other.example/here/some-model/"
    html = (
        f'<a>none</a><a href>empty</a><b href="{FILE}">b</b><A class="x" HREF="../{FILE}?q=1#sha256=2">it</A>'
    )
    pages = {
        page: httpx.Response(301, headers={"location": moved}),
        moved: httpx.Response(200, text=html, headers={"content-type": "text/html"}),
    }
    with answers(pages) as client:
        for index in ("https://index.example/simple", "https://index.example/simple/"):
            assert (
                _find(client, index, "some-model", FILE) == f"https://other.example/here/{FILE}?q=1#sha256=2"
            )
        with pytest.raises(LookupError, match="has no other"):
            _find(client, "https://index.example/simple", "some-model", "other")
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["accept"])
        return httpx.Response(404, request=request)

    asking = httpx.Client(transport=httpx.MockTransport(answer))
    with asking as client, pytest.raises(httpx.HTTPStatusError) as caught:
        _find(client, "https://index.example", "some-model", FILE)
    assert _told(caught.value) == "answers 404 Not Found"
    assert asked == ["application/vnd.pypi.simple.v1+json, text/html;q=0.5"]


def test_an_index_of_files_with_a_page(tmp_path: Path) -> None:
    folder = tmp_path / "a b" / "some-model"
    wheel = tmp_path / "elsewhere" / FILE
    write(folder / "index.html", f'<a href="{wheel.as_uri()}">x</a>')
    with answers({}) as client:
        index = (tmp_path / "a b").as_uri()
        assert _find(client, index, "some-model", FILE) == wheel.as_uri()
        (folder / FILE).write_bytes(b"")
        assert _find(client, index, "some-model", FILE) == (folder / FILE).as_uri()
        with pytest.raises(LookupError):
            _find(client, index, "some-model", "other")


def test_one_index_after_another_and_what_each_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    (full / "some-model").mkdir(parents=True)
    (full / "some-model" / FILE).write_bytes(CONTENT)
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{empty.as_uri()} {full.as_uri()}")
    assert fetch("some-model", FILE, SHA256, tmp_path) == full / "some-model" / FILE
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", empty.as_uri())
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "none").as_uri())
    with pytest.raises(
        ModelError, match=rf"{FILE} could not be fetched \(file://.*; file://.*\)\. It is needed"
    ):
        fetch("some-model", FILE, SHA256, tmp_path)


def test_a_url_is_shown_without_path_and_credentials() -> None:
    assert _shown("https://user:secret@index.example:8080/simple/x?token=1#2") == "https://index.example"
    assert _shown("file:///some/folder") == "file:///some/folder"
    assert _told(LookupError("'has nothing'")) == "has nothing"
    assert _told(ValueError("one\ntwo")) == "one"


def test_pips_own_index_is_read_from_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = 'PyPI = PackageIndex(\n    "https://pypi.example/", file_storage_domain="x"\n)\n'
    installed = tmp_path / "pip"
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    with zipfile.ZipFile(bundled / "pip-9.whl", "w") as archive:
        archive.writestr("pip/_internal/models/index.py", source.replace("pypi", "bundled"))

    class Spec:
        submodule_search_locations = (str(tmp_path / "nowhere"), str(installed))

    monkeypatch.setattr(
        package_index.importlib.util, "find_spec", lambda name: Spec if name == "pip" else None
    )
    monkeypatch.setattr(package_index.sysconfig, "get_config_var", lambda name: str(bundled))
    assert default_index() == "https://bundled.example/simple"
    write(installed / "_internal" / "models" / "index.py", source)
    assert default_index() == "https://pypi.example/simple"
    monkeypatch.setattr(package_index.importlib.util, "find_spec", lambda name: None)
    assert default_index() == "https://bundled.example/simple"
    monkeypatch.setattr(package_index.sysconfig, "get_config_var", lambda name: None)
    assert default_index() == ""
    made = tmp_path / "ensurepip" / "_bundled"  # the wheel that Python itself carries
    made.mkdir(parents=True)
    with zipfile.ZipFile(made / "pip-8.whl", "w") as archive:
        archive.writestr("pip/_internal/models/index.py", source.replace("pypi", "python"))
    found = SimpleNamespace(origin=str(made.parent / "__init__.py"))
    monkeypatch.setattr(
        package_index.importlib.util, "find_spec", lambda name: found if name == "ensurepip" else None
    )
    assert default_index() == "https://python.example/simple"
    found.origin = None
    assert default_index() == ""


@pytest.mark.parametrize(("total", "of"), [(0, ""), (9_000_000, " of 9")])
def test_a_transfer_says_every_few_seconds_how_far_it_is(
    total: int, of: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(package_index.time, "monotonic", lambda: clock[0])
    with _Transfer(FILE, "https://index.example", total) as transfer:
        for seconds in (4.0, 1.0, 0.5, 5.0, 0.1, 4.95):
            clock[0] += seconds
            transfer.add(1_000_000)
    shown = [f"https://index.example: {done}{of} MB" for done in (3, 5)]
    assert capsys.readouterr().err.splitlines() == shown


def test_in_a_terminal_a_bar_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with _Transfer("the-file", "https://index.example", 4_000_000) as transfer:
        transfer.add(1_000_000)
        transfer.add(3_000_000)
    assert "the-file" in screen.getvalue()
    assert "4.0/4.0 MB" in screen.getvalue()
    assert "https://" not in screen.getvalue()


def test_what_comes_is_counted_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = b"x" * 3_000_000
    url = f"https://index.example/{FILE}"
    pages = {url: httpx.Response(200, content=content), f"{url}x": httpx.Response(503)}
    with answers(pages) as client:
        found = package_index._download(client, url, tmp_path / FILE, hashlib.sha256(content).hexdigest())
        assert found.read_bytes() == content
        with pytest.raises(httpx.HTTPStatusError):
            package_index._download(client, f"{url}x", tmp_path / FILE, SHA256)
    assert capsys.readouterr().err == ""
