"""Mutants of a Python file: one small change each, of the kind that a person might make by mistake.

A mutant replaces one piece of the text, so that everything else, the line numbers included, stays. Not
touched: annotations, decorators, docstrings, messages (what is raised, f-strings), `assert`, `zip`'s strict.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

SWAPPED: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
}
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a file.

    Attributes:
        line: where it is, from 1.
        lines: first and last line of the statement around it (of its head, if it has a body).
        kind: what was done, in a few words.
        start: offset of the text replaced, in characters.
        end: its end.
        text: what stands there instead.
    """

    line: int
    lines: tuple[int, int]
    kind: str
    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        """The file with the change."""
        return source[: self.start] + self.text + source[self.end :]


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a file's text that can still be compiled, in the order of its lines."""
    return _Finder(source).found()


class _Finder:
    """Walks over a file's syntax tree and notes mutants; `within` is the statement that it is in."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.within: ast.stmt = ast.Pass(lineno=1, end_lineno=1)
        self.mutants: dict[tuple[int, int, str], Mutant] = {}
        lines = source.splitlines(keepends=True)
        self.encoded = [line.encode() for line in lines]
        self.offsets = [0]
        for line in lines:
            self.offsets.append(self.offsets[-1] + len(line))

    def found(self) -> list[Mutant]:
        self.visit(ast.parse(self.source))
        return sorted(self.mutants.values(), key=lambda mutant: (mutant.start, mutant.end))

    def visit(self, node: ast.AST) -> None:
        outer = self.within
        if isinstance(node, ast.stmt):
            self.within = node
            self.statement(node)
        elif isinstance(node, ast.expr):
            self.expression(node)
        for child in _touched(node):
            self.visit(child)
        self.within = outer

    def statement(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Raise | ast.AugAssign | ast.Delete | ast.Continue | ast.Break):
            self.note(node, "pass", "statement removed")
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            self.note(node, "pass", "call removed")
        elif isinstance(node, ast.Assign) and not isinstance(node.targets[0], ast.Name | ast.Tuple):
            self.note(node, "pass", "assignment removed")
        elif isinstance(node, ast.Return) and not _is_none(node.value):
            self.note(node, "return None", "value returned is None")
        if isinstance(node, ast.AugAssign):
            for other in SWAPPED.get(type(node.op), ()):
                self.note(node, _changed(node, op=other()), "operator swapped")
        if isinstance(node, ast.If | ast.While):
            self.condition(node.test)

    def condition(self, test: ast.expr) -> None:
        if not isinstance(
            test, ast.Compare | ast.UnaryOp
        ):  # else the comparison is changed, the `not` removed
            self.note(test, f"not ({ast.unparse(test)})", "condition negated")
        for value in ("True", "False"):
            self.note(test, value, f"condition always {value.lower()}")

    def expression(self, node: ast.expr) -> None:
        if isinstance(node, ast.Constant):
            self.constant(node)
        elif isinstance(node, ast.Compare):
            for place, operator in enumerate(node.ops):
                for other in SWAPPED.get(type(operator), ()):
                    operators = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                    self.note(node, _changed(node, ops=operators), "comparison changed")
        elif isinstance(node, ast.BinOp):
            for other in SWAPPED.get(type(node.op), ()):
                self.note(node, _changed(node, op=other()), "operator swapped")
        elif isinstance(node, ast.UnaryOp):
            self.note(node, ast.unparse(node.operand), "sign or negation removed")
        elif isinstance(node, ast.BoolOp):
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            self.note(node, _changed(node, op=other), "and/or swapped")
            for place in range(len(node.values)):
                rest = node.values[:place] + node.values[place + 1 :]
                self.note(node, _changed(node, values=rest), "condition removed")
        elif isinstance(node, ast.IfExp):
            self.condition(node.test)
        elif isinstance(node, ast.Call):
            self.call(node)
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            for generator in node.generators:
                for test in generator.ifs:
                    self.note(test, "True", "filter removed")

    def constant(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool):
            self.note(node, str(not value), "constant changed")
        elif isinstance(value, int):
            self.note(node, str(value + 1), "constant changed")
        elif isinstance(value, float):
            self.note(node, repr(value * 2 if value else 1.0), "constant changed")

    def call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in NAMES:
            self.note(node.func, NAMES[node.func.id], "function swapped")
        for keyword in node.keywords:
            if keyword.arg not in (None, "strict"):
                rest = [other for other in node.keywords if other is not keyword]
                self.note(node, _changed(node, keywords=rest), "argument removed", keyword.value.lineno)

    def note(self, node: ast.AST, text: str, kind: str, line: int | None = None) -> None:
        """Keep the change of a node's text, unless it cannot be compiled."""
        start = self.offset(node.lineno, node.col_offset)  # type: ignore[attr-defined]
        end = self.offset(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]
        breaks = "\n" * self.source.count("\n", start, end)
        if not isinstance(node, ast.expr):
            text += breaks
        elif breaks or not isinstance(node, ast.Constant | ast.Name):
            text = f"({breaks}{text})"
        within = self.within
        body = getattr(within, "body", None)
        last = body[0].lineno - 1 if body else within.end_lineno or within.lineno
        mutant = Mutant(
            line or node.lineno,  # type: ignore[attr-defined]
            (within.lineno, max(within.lineno, last)),
            kind,
            start,
            end,
            text,
        )
        try:
            compile(mutant.apply(self.source), "mutant", "exec")
        except SyntaxError:
            return
        self.mutants.setdefault((start, end, text), mutant)

    def offset(self, line: int, column: int) -> int:
        """Characters before a place that the syntax tree gives in bytes."""
        return self.offsets[line - 1] + len(self.encoded[line - 1][:column].decode())


def _touched(node: ast.AST) -> Iterator[ast.AST]:
    """Children of a node in which mutants are looked for."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    left_out: Iterable[str] = ("annotation", "returns", "decorator_list")
    for name, value in ast.iter_fields(node):
        if name in left_out:
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.keyword) and child.arg == "strict":
                continue
            if isinstance(child, ast.AST):
                yield child


def _changed(node: ast.AST, **fields: Any) -> str:
    """Text of a node with other fields; an `and` or `or` of one part is that part."""
    copied = type(node)(**{**dict(ast.iter_fields(node)), **fields})
    if isinstance(copied, ast.BoolOp) and len(copied.values) == 1:
        return ast.unparse(copied.values[0])
    return ast.unparse(ast.fix_missing_locations(copied))


def _is_none(value: ast.expr | None) -> bool:
    return value is None or (isinstance(value, ast.Constant) and value.value is None)
