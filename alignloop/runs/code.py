"""The code behind a result: a hash of what a stage imports, taken from syntax trees.

Comments, docstrings, formatting and places in the text do not count, nor does a module that the stage never
imports. Versions of Python that parse a source alike hash it alike.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import alignloop
from alignloop.content import sha256_of, text_sha256
from alignloop.objectives.registry import names as objective_names

ROOT = Path(alignloop.__file__).parent
_NOT_FOLLOWED = ("", ".config.registry", ".objectives.registry", ".progress", ".notebook")
"""Tables that name every stage and objective (`code_of` is told which ones count), and what only shows."""
_WITHOUT_EFFECT = frozenset(("api", "cli", "report", "serve"))
"""Packages that can change no result."""
_UNREAD = frozenset(("ctx", "kind", "type_comment", "type_ignores"))
"""Fields of a syntax tree that follow from the others or that Python does not execute."""


def code_of(runner: str, keys: Mapping[str, Any], *parts: object) -> str:
    """Hash of the code that a stage runs.

    Args:
        runner: the stage's function, `module:function`.
        keys: resolved keys of the stage; an objective that one of them names counts.
        *parts: configuration and objective of the stage; the modules of their classes count.

    Returns:
        `code_sha256` of these modules.
    """
    classes = {base.__module__ for part in parts for base in type(part).__mro__}
    named = {value for value in keys.values() if isinstance(value, str)}.intersection(objective_names())
    modules = {module for module in classes if module.startswith(f"{ROOT.name}.")}
    modules |= {f"{ROOT.name}.objectives.{name}" for name in named}
    return code_sha256(runner.partition(":")[0], *sorted(modules))


@cache
def code_sha256(*modules: str, root: Path = ROOT) -> str:
    """Hash of modules, of all that they import in the package, and of the data files that these read.

    Imports inside functions count; those for type checkers alone do not.

    Args:
        *modules: names of modules; without any, the whole package except what can change no result.
        root: folder of the package.

    Returns:
        SHA-256 in hexadecimal, computed once per process.
    """
    package = _package(root)
    found: dict[str, str] = {}
    with _without_collector():
        pending = list(modules) or package.all_with_effect()
        while pending:
            module = pending.pop()
            if module not in found and module not in package.not_followed:
                found[module] = package.hash_of(module)
                pending += package.imports_of(module)
    return text_sha256("\n".join(f"{module} {digest}" for module, digest in sorted(found.items())))


@cache
def code_version(sha256: str) -> dict[str, str]:
    """{version, git_commit, sha256}; the commit is empty where the package is not in a git work tree.

    Args:
        sha256: hash of the code that a stage runs.

    Returns:
        What run.json says of the code.
    """
    commit = ""
    if (ROOT.parent / ".git").exists():
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, timeout=5, check=False
            )
            commit = done.stdout.decode("ascii", "replace").strip() if done.returncode == 0 else ""
        except (OSError, subprocess.TimeoutExpired):
            commit = ""
    return {"version": alignloop.__version__, "git_commit": commit, "sha256": sha256}


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a source does.

    Attributes:
        text: its syntax tree without docstrings and places; equal for sources that do the same.
        imports: its import statements, those within functions too.
        objectives: names that it gives to `load`, which imports an objective.
        looks_beside: whether it names its own place, from which it may read files.
        only_passes_on: whether it holds nothing but imports, a docstring and `__all__`.
    """

    text: str
    imports: tuple[ast.Import | ast.ImportFrom, ...]
    objectives: tuple[str, ...]
    looks_beside: bool
    only_passes_on: bool


def meaning_of(source: str | bytes) -> Meaning:
    """Read a Python source without what is for people or for type checkers alone.

    Empty fields are left out, since versions of Python add such fields (`type_params`).
    """
    written: list[str] = []
    imports: list[ast.Import | ast.ImportFrom] = []
    names: set[str] = set()
    objectives: list[str] = []
    put = written.append

    def walk(value: Any) -> None:
        kind = type(value)
        if kind is ast.Name:
            names.add(value.id)
            put(f"Name {value.id};")
        elif isinstance(value, ast.AST):
            if isinstance(value, ast.If) and _is_named(value.test, "TYPE_CHECKING"):
                walk(value.orelse)
                return
            if isinstance(value, ast.Import | ast.ImportFrom):
                imports.append(value)
            elif isinstance(value, ast.Call):
                objectives.extend(_loaded(value))
            elif isinstance(value, ast.JoinedStr):  # Python 3.12 ends some with an empty text
                value.values = [part for part in value.values if getattr(part, "value", None) != ""]
            put(kind.__name__)
            for name in kind._fields:
                inner = getattr(value, name, None)
                if inner is not None and inner != [] and name not in _UNREAD:
                    put(name)
                    walk(inner)
            put(";")
        elif kind is list:
            put("[")
            for item in value:
                if not (type(item) is ast.Expr and _is_text(item.value)):  # a docstring, also of a name
                    walk(item)
            put("]")
        else:
            text = value if kind is str else repr(value)
            put(f"{kind.__name__}{len(text)}:{text}")

    tree = ast.parse(source)
    walk(tree)
    beside = not names.isdisjoint(("__file__", "files"))
    passes_on = all(map(_passes_on, tree.body))
    return Meaning(" ".join(written), tuple(imports), tuple(objectives), beside, passes_on)


def _passes_on(node: ast.stmt) -> bool:
    is_list = isinstance(node, ast.Assign) and all(_is_named(target, "__all__") for target in node.targets)
    return is_list or isinstance(node, ast.Import | ast.ImportFrom | ast.Expr)


def _loaded(call: ast.Call) -> Iterator[str]:
    """The name in `load("sft")`."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "load" and call.args and isinstance(text := call.args[0], ast.Constant):
        yield str(text.value)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


class _Package:
    """The modules of a package: what each does, and which ones each imports."""

    def __init__(self, root: Path) -> None:
        self.name = root.name
        self.files: dict[str, Path] = {}
        for file in root.rglob("*.py"):
            parts = (self.name, *file.relative_to(root).with_suffix("").parts)
            self.files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
        self.not_followed = frozenset(self.name + name for name in _NOT_FOLLOWED)
        self._read: dict[str, Meaning] = {}
        self._hashes: dict[str, str] = {}

    def all_with_effect(self) -> list[str]:
        """Names of all modules, without those of packages that can change no result."""
        return [name for name in self.files if not {*name.split(".")[1:2]} & _WITHOUT_EFFECT]

    def hash_of(self, module: str) -> str:
        """Hash of what a module does and of the data files beside it, if it looks beside itself."""
        if module not in self._hashes:
            meaning, file = self._meaning(module), self.files.get(module)
            read = _data_beside(file) if file is not None and meaning.looks_beside else ()
            data = [f"\n{f.name} {sha256_of(f)}" for f in read]
            self._hashes[module] = text_sha256("".join([meaning.text, *data]))
        return self._hashes[module]

    def imports_of(self, module: str) -> list[str]:
        """Modules of the package that a module imports."""
        loaded = (f"{self.name}.objectives.{name}" for name in self._meaning(module).objectives)
        found = [name for name in loaded if name in self.files]
        for node in self._meaning(module).imports:
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names if alias.name in self.files]
            else:
                base = self._base(module, node)
                found += [source for alias in node.names for source in self._sources(base, alias.name)]
        return found

    def _meaning(self, module: str) -> Meaning:
        if module not in self._read:
            file = self.files.get(module)
            if file is None:  # a stage of the user's own
                spec = importlib.util.find_spec(module)
                file = Path(spec.origin) if spec is not None and spec.origin else None
            self._read[module] = meaning_of(file.read_bytes() if file is not None else b"")
        return self._read[module]

    def _base(self, module: str, node: ast.ImportFrom) -> str:
        """The module that a statement imports from, by its full name."""
        if not node.level:
            return node.module or ""
        is_package = module in self.files and self.files[module].name == "__init__.py"
        kept = module.split(".")[: len(module.split(".")) - node.level + is_package]
        return ".".join([*kept, node.module] if node.module else kept)

    def _sources(self, base: str, name: str) -> list[str]:
        """The module behind `from base import name`, through any `__init__` that only passes names on."""
        if f"{base}.{name}" in self.files:
            return [f"{base}.{name}"]
        if base not in self.files or base in self.not_followed:
            return []
        if self.files[base].name != "__init__.py" or not self._meaning(base).only_passes_on:
            return [base]
        return [
            source
            for node in self._meaning(base).imports
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if "*" in (name, alias.name) or name == (alias.asname or alias.name)
            for source in self._sources(self._base(base, node), alias.name)
        ]


@cache
def _package(root: Path) -> _Package:
    return _Package(root)


def _is_named(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _data_beside(module: Path) -> Iterable[Path]:
    """Files in a module's folder that are no Python, in order, without packages and hidden folders."""
    for place in sorted(module.parent.iterdir()):
        if place.name[0] in "._" or (place / "__init__.py").exists():
            continue
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (file for file in found if file.is_file() and file.suffix not in (".py", ".pyi", ".pyc"))


@contextmanager
def _without_collector() -> Iterator[None]:
    """Syntax trees are many small objects; looking through them for garbage doubles the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
