"""Functions of the user: named as `module:function` or `file.py:function`, or given as Python objects.

A named function is looked for in the current folder first. One that is given as an object gets a name
made of its source, so that a run whose function was changed is another run.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from alignloop.content import sha256_of, text_sha256
from alignloop.errors import UserError

REFERENCE = r"^([\w.]+|.*\.py):\w+$"
"""How a recipe names a function: `module:function` or `file.py:function`."""
GIVEN = "given"
"""In a module's place: the function was given as a Python object."""

_given: dict[str, Callable[..., Any]] = {}
_sources: dict[str, str] = {}
_loaded: dict[str, str] = {}  # SHA-256 of a module's file when it was imported here, by module name


def load_function(reference: str, what: str = "function") -> Callable[..., Any]:
    """The function that a recipe names.

    Args:
        reference: `module:function`, `file.py:function`, or what `give` returned.
        what: its role, for messages: `reward function`, `judge`.

    Returns:
        The function. A file that was changed since it was imported is imported again.

    Raises:
        UserError: no such file, module or function; the file raises when it is imported (with its file
            and line); an object that was given to another process.
    """
    place, _, name = reference.rpartition(":")
    if place == GIVEN:
        return _given_function(reference, name, what)
    try:
        module = _file_module(Path(place)) if place.endswith(".py") else _named_module(place)
    except Exception as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "") == place.split(".")[0]
        told = "" if missing or isinstance(error, OSError) else f" ({place_of(error)})"
        kind = "" if isinstance(error, ImportError | OSError) else f"{type(error).__name__}: "
        raise UserError(f"{what} '{reference}' cannot be imported: {kind}{error}{told}") from error
    found = getattr(module, name, None)
    if found is None:
        raise UserError(f"{what} '{reference}' cannot be imported: {place} has no '{name}'")
    if not callable(found):
        raise UserError(f"{what} '{reference}' is not a function")
    return found


def give(function: Callable[..., Any]) -> str:
    """Make an object known under a name that recipes of this process can use.

    Args:
        function: any callable.

    Returns:
        `given:NAME_HASH`; the hash is of the source, of plain values that it closes over, and of
        functions and plain values of its module that it names.
    """
    source = describe(function)
    digest = text_sha256(source)[:8]
    named = getattr(function, "__name__", None) or type(function).__name__
    name = f"{re.sub(r'[^a-zA-Z0-9_]', '', named) or 'function'}_{digest}"
    _given[f"{GIVEN}:{name}"] = function
    _sources[f"{GIVEN}:{name}"] = source
    return f"{GIVEN}:{name}"


def name_of(reference: str) -> str:
    """The function's own name, for metrics and messages."""
    place, _, name = reference.rpartition(":")
    return name.rpartition("_")[0] if place == GIVEN else name


def source_of(reference: str) -> str:
    """The source of a function that was given as an object, "" for another name."""
    return _sources.get(reference, "")


def source_file(reference: str) -> str:
    """The file that a named function stands in, if it is the user's own: `file.py`, or a module of the
    current folder; "" for an installed module and for an object."""
    place = reference.rpartition(":")[0]
    if place.endswith(".py"):
        return place
    stem = Path(*place.split("."))
    return next((str(f) for f in (stem.with_suffix(".py"), stem / "__init__.py") if f.is_file()), "")


def place_of(error: BaseException) -> str:
    """Where an exception was raised, as `file:line in function`.

    The innermost line of code that is neither Python's nor an installed package's nor AlignLoop's; the
    innermost line of all if there is none.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno or 0}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_foreign(frame.filename)]
    if not frames:
        return "no line known"
    frame = (own or frames)[-1]
    return f"{_short(frame.filename)}:{frame.lineno} in {frame.name}"


def describe(function: Callable[..., Any], _seen: frozenset[int] = frozenset()) -> str:
    """What decides about a callable's results, as text: see `give`."""
    if isinstance(function, functools.partial):
        inner = describe(function.func, _seen)
        return f"{inner}\n# partial: {function.args!r} {sorted(function.keywords.items())!r}\n"
    plain = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(plain, FunctionType):
        kind = type(plain)
        return _source(kind) or f"# {kind.__module__}.{kind.__qualname__} {getattr(plain, '__name__', '')}\n"
    seen = _seen | {id(plain)}
    text = _source(plain) or repr(_constants(plain.__code__))
    cells = (cell.cell_contents for cell in plain.__closure__ or ())
    named = [*zip(plain.__code__.co_freevars, cells, strict=True)]
    named += [
        (name, plain.__globals__[name]) for name in plain.__code__.co_names if name in plain.__globals__
    ]
    for name, value in sorted(named, key=lambda item: item[0]):
        if isinstance(value, str | int | float | bool | tuple | None):
            text += f"# {name} = {value!r}\n"
        elif isinstance(value, FunctionType) and id(value) not in seen and not _is_foreign(_file(value)):
            text += f"\n{describe(value, seen)}"
    return text


def _constants(code: CodeType) -> list[object]:
    """A function's byte code and constants, nested functions included, where its source is not known."""
    inner = [_constants(const) if isinstance(const, CodeType) else const for const in code.co_consts]
    return [code.co_code.hex(), inner, code.co_names]


def _source(function: Any) -> str:
    try:
        return textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return ""


def _file(function: FunctionType) -> str:
    return function.__code__.co_filename


def _given_function(reference: str, name: str, what: str) -> Callable[..., Any]:
    if reference not in _given:
        raise UserError(
            f"{what} '{reference}' was given as a Python object to another process; start the run from "
            f"Python again with the same function (its source is in the run folder: given/{name}.py)"
        )
    return _given[reference]


def _named_module(name: str) -> ModuleType:
    """A module by name, the current folder being searched first."""
    known = sys.modules.get(name)
    with _importing_from(Path.cwd()):
        module = importlib.import_module(name)
        file = Path(getattr(module, "__file__", None) or "")
        if file.is_file() and not _is_foreign(str(file)):
            digest = sha256_of(file)
            if known is not None and _loaded.get(name, digest) != digest:
                module = importlib.reload(module)
            _loaded[name] = digest
    return module


def _file_module(file: Path) -> ModuleType:
    """A file as a module; it may import its neighbours."""
    path = file.expanduser().resolve()
    digest = sha256_of(path)
    name = f"alignloop_user_{path.stem}_{text_sha256(f'{path} {digest}')[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importing_from(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    importlib.invalidate_caches()  # the file may be younger than what Python knows of its folder
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _short(file: str) -> str:
    path = Path(file)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file


_PACKAGE = Path(__file__).parent
_FOREIGN = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _is_foreign(file: str) -> bool:
    """Whether a file belongs to Python, to an installed package or to AlignLoop."""
    return file.startswith((*_FOREIGN, str(_PACKAGE), "<frozen"))
