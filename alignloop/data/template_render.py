"""Rendering of jinja chat templates as transformers does it, in a sandbox with limits.

The environment is that of transformers' `apply_chat_template`: the same blocks, `tojson`,
`raise_exception`, `{% generation %}`, and `tools` and `documents` that are None where there are none.
Two things differ. `strftime_now` tells a given date, so that a rendering is the same every day; what
draws random numbers (the filter `random`, the function `lipsum`) does not exist. See `template_limits`
for what a template may use.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import lru_cache, partial
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from alignloop.data import template_limits as limits

FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RuntimeError,
    MemoryError,
    SyntaxError,
)
"""What a template that fails can raise; RecursionError is a RuntimeError."""
_ROUNDS, _CONCAT, _SLICE = "rounds of a loop", "concatenation", "slice"
"""Filters that no template can name, since their names hold spaces."""


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, by which some templates mark the assistant's text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Bounds(NodeTransformer):
    """Leads loops, `~` and slices through filters that count."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filter(node.iter, _ROUNDS)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes).set_lineno(node.lineno), _CONCAT)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        ends = [node.arg.start, node.arg.stop, node.arg.step]
        return _filter(node.node, _SLICE, [end if end is not None else nodes.Const(None) for end in ends])


def _filter(value: nodes.Node, name: str, args: list[nodes.Expr] | None = None) -> nodes.Filter:
    made = nodes.Filter(value, name, args or [], [], None, None)  # pyright: ignore[reportCallIssue]
    made.lineno, made.environment = value.lineno, value.environment
    return made


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which everything that repeats or enlarges is counted."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))
    concat = staticmethod(limits.joined)  # pyright: ignore[reportAssignmentType]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        tree.set_environment(self)
        return _Bounds().visit(tree)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return limits.calculated(operator, self.binop_table[operator], left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        if args and getattr(__obj, "__name__", "") == "join" and not isinstance(args[0], list):
            args = (list(limits.Rounds(args[0])), *args[1:])
        budget = limits.called(__obj, args, kwargs)
        found = super().call(__context, __obj, *args, **kwargs)
        budget.spend(limits.size_of(found))
        return found


class _Namespace(Namespace):
    """Jinja's `namespace` without names that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise jinja2.TemplateError(f"namespace.{name}: names with an underscore in front are not allowed")
        super().__setitem__(name, value)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    made = _Environment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
    made.filters["tojson"] = _tojson
    del made.filters["random"], made.globals["lipsum"]
    filters: dict[str, Callable[..., Any]] = {
        name: limits.bounded(name, function) for name, function in made.filters.items()
    }
    filters |= {_ROUNDS: limits.Rounds, _CONCAT: limits.concatenated, _SLICE: limits.sliced}
    made.filters = filters
    made.globals |= {"raise_exception": _refuse, "namespace": _Namespace}
    return made


@lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    if len(source) > limits.MAX_SOURCE:
        raise limits.TemplateLimit(f"its text has {len(source)} characters, more than {limits.MAX_SOURCE}")
    return _environment().from_string(source)


@lru_cache(maxsize=64)
def variables(source: str) -> frozenset[str]:
    """Names that a template takes from outside, such as `messages` and `enable_thinking`.

    Raises:
        one of FAULTS: the template cannot be read.
    """
    with limits.limited(0):
        return frozenset(meta.find_undeclared_variables(_environment().parse(source)))


def render(source: str, size: int, values: Mapping[str, Any], day: str = "") -> str:
    """Render a template.

    Args:
        source: jinja text.
        size: characters of the messages, to which the limits are in proportion.
        values: variables of the template.
        day: date for `strftime_now` in ISO form, which does not exist if empty.

    Returns:
        The text.

    Raises:
        one of FAULTS: the template refuses the messages, is wrong, or passes a limit.
    """
    clock = {"strftime_now": partial(_strftime, day)} if day else {}
    with limits.limited(size):
        template = _compiled(source)
        context = template.new_context({"tools": None, "documents": None, **clock, **values})
        return limits.joined(template.root_render_func(context))


def _strftime(day: str, form: str) -> str:
    return datetime.combine(date.fromisoformat(day), datetime.min.time()).strftime(form)


def told(fault: BaseException) -> str:
    """What a fault says, in one line."""
    if isinstance(fault, RecursionError):
        return "it calls itself without end, or nests too deeply"
    if isinstance(fault, MemoryError):
        return "it needs more memory than there is"
    return " ".join(str(fault).split())[:300] or type(fault).__name__
