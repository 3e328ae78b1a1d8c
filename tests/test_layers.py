"""Who may import whom. The table is the architecture; the tests hold it with `ast`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "alignloop"

# A file imports only from its own or an earlier line.
LAYERS = (
    ("errors", "records", "machine", "io", "foreign", "content", "user_functions", "notebook", "progress"),
    ("data",),
    ("objectives",),
    ("model",),
    ("rl",),
    ("training",),
    ("runs", "config", "web"),
    ("labels", "judges", "evaluation"),
    ("stages",),
    ("pipeline",),
    ("report",),
    ("api",),
    ("serve", "cli"),
)
# Two of one line that know nothing of each other: judgements by people, and judgements by models.
APART = ("labels", "judges")
# The package's own namespace: offers names of every layer lazily, so only its module level counts.
NAMESPACE = (PACKAGE, f"{PACKAGE}.__main__")


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}


def layer_of(module: str) -> int:
    part = module.split(".")[1]
    found = [number for number, names in enumerate(LAYERS) if part in names]
    assert found, f"{module}: '{part}' is in no layer; add it to LAYERS"
    return found[0]


def statements(tree: ast.Module, *, into_functions: bool) -> Iterator[ast.stmt]:
    pending: list[ast.AST] = [tree]
    while pending:
        for child in ast.iter_child_nodes(pending.pop()):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child
            elif not into_functions and isinstance(child, ast.If) and _is_for_type_checkers(child):
                continue
            elif into_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                pending.append(child)


def _is_for_type_checkers(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported_modules(module: str, source: str, known: set[str], *, into_functions: bool) -> set[str]:
    """Modules of the package that `source`, the text of `module`, imports.

    `from alignloop.data import packing` is an import of the file packing, not of the folder's
    `__init__`; a folder counts only when a name that is not a file is taken from it.
    """
    is_folder = any(name.startswith(module + ".") for name in known)
    found = set()
    for node in statements(ast.parse(source), into_functions=into_functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                keep = len(module.split(".")) - node.level + is_folder
                base = ".".join([*module.split(".")[:keep], *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found |= {inner} if inner in known else {base} & known
    return found - {module}


def graph() -> dict[str, set[str]]:
    return {
        module: imported_modules(
            module,
            path.read_text(encoding="utf-8"),
            set(FILES),
            # The command line imports late so that --help is fast; that closes no circle.
            into_functions=module not in NAMESPACE and not module.startswith(f"{PACKAGE}.cli"),
        )
        for module, path in FILES.items()
    }


def find_circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules along one circle, the first repeated at the end, or []."""
    finished: set[str] = set()

    def walk(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in finished:
            return []
        for target in sorted(edges.get(module, ())):
            if circle := walk(target, [*trail, module]):
                return circle
        finished.add(module)
        return []

    return next((circle for module in sorted(edges) if (circle := walk(module, []))), [])


@pytest.mark.parametrize("module", [name for name in FILES if name not in NAMESPACE])
def test_imports_only_own_or_earlier_layers(module: str) -> None:
    source = FILES[module].read_text(encoding="utf-8")
    late = {
        target
        for target in imported_modules(module, source, set(FILES), into_functions=True)
        if target not in NAMESPACE and layer_of(target) > layer_of(module)
    }
    assert not late, f"{module} imports from a later layer: {', '.join(sorted(late))}"


@pytest.mark.parametrize(
    "module", [name for name in FILES if name.split(".")[1:2] and name.split(".")[1] in APART]
)
def test_people_and_models_judge_apart(module: str) -> None:
    room = module.split(".")[1]
    (other,) = set(APART) - {room}
    source = FILES[module].read_text(encoding="utf-8")
    seen = imported_modules(module, source, set(FILES), into_functions=True)
    across = sorted(target for target in seen if target.split(".")[1:2] == [other])
    assert not across, f"{module} imports {', '.join(across)}"


def test_no_circles() -> None:
    circle = find_circle(graph())
    assert not circle, " -> ".join(circle)


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_are_found() -> None:
    known = {"p", "p.data", "p.data.packing", "p.data.chat", "p.run"}
    source = "\n".join(
        [
            "from p.data import packing, Thing",  # a file, and a name of the folder itself
            "from .. import run",  # relative, two levels up from p.data.chat
            "import numpy",
            "def late():",
            "    from p.data.chat import x",
        ]
    )
    module_level = {"p.data.packing", "p.data", "p.run"}
    assert imported_modules("p.data.chat", source, known, into_functions=False) == module_level
    assert imported_modules("p.model", source.replace("from ..", "from ."), known, into_functions=True) == {
        *module_level,
        "p.data.chat",
    }
