"""What pages are made of: words in the reader's language, templates, and files read once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from alignloop.foreign import loads

LANGUAGES = {"en": "English", "ko": "한국어"}
_MEDIA_TYPES = {
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
    "woff2": "font/woff2",
}


def page_texts(package: str) -> Mapping[str, Mapping[str, str]]:
    """The words of a package's pages by language; `texts/en.json` and `texts/ko.json` have the same keys."""
    folder = files(package).joinpath("texts")
    return {language: loads(folder.joinpath(f"{language}.json").read_text("utf-8")) for language in LANGUAGES}


def preferred_language(*wishes: str | None) -> str:
    """First wish that is a known language; an Accept-Language header counts as one wish."""
    for wish in wishes:
        for part in (wish or "").split(","):
            code = part.split(";")[0].strip().lower()[:2]
            if code in LANGUAGES:
                return code
    return "en"


def page_templates(package: str) -> Environment:
    """A package's templates; they escape everything and know no undefined names."""
    environment = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["when"] = lambda seconds: time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
    return environment


def static_files(package: str) -> dict[str, tuple[bytes, str]]:
    """Name → (content, media type) of the files of all pages and of a package's own.

    They are read once: a request chooses among these names and opens no path. Files in a folder are named
    `folder/file`.
    """
    found: dict[str, tuple[bytes, str]] = {}

    def read(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            media_type = _MEDIA_TYPES.get(entry.name.rsplit(".", 1)[-1])
            if entry.is_dir():
                read(entry, f"{prefix}{entry.name}/")
            elif media_type is not None:
                found[prefix + entry.name] = (entry.read_bytes(), media_type)

    for one in ("alignloop.web", package):
        read(files(one).joinpath("static"), "")
    return found


def static_route(package: str) -> Route:
    """GET /static/NAME: a file of the package's pages."""
    known = static_files(package)

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in known:
            return PlainTextResponse("not found", 404)
        content, media_type = known[name]
        # KaTeX lies in a folder that names its version, so that its content never changes.
        cache = "public, max-age=31536000, immutable" if name.startswith("katex-") else "no-cache"
        return Response(content, media_type=media_type, headers={"Cache-Control": cache})

    return Route("/static/{name:path}", static)
