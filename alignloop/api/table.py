"""Rows as a table: a pandas frame where pandas is installed, else `Table`, which prints and indexes alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, overload

_SHOWN_ROWS = 20
_SHOWN_CHARACTERS = 40


class Table(Sequence[Mapping[str, Any]]):
    """Rows with named columns. `table["loss"]` is a column, `table[0]` a row; it prints aligned.

    Attributes:
        rows: one mapping for each row; a row need not have every column.
        columns: names in the order in which they first occur.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep the rows.

        Args:
            rows: one mapping for each row.
        """
        self.rows = [dict(row) for row in rows]
        self.columns = list(dict.fromkeys(name for row in self.rows for name in row))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    @overload
    def __getitem__(self, key: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, key: slice) -> Table: ...
    @overload
    def __getitem__(self, key: str) -> list[Any]: ...
    def __getitem__(self, key: int | slice | str) -> Any:
        """A row, some rows, or a column; a row without the column gives None.

        Raises:
            KeyError: no such column.
        """
        if isinstance(key, str):
            if key not in self.columns:
                raise KeyError(key)
            return [row.get(key) for row in self.rows]
        return Table(self.rows[key]) if isinstance(key, slice) else self.rows[key]

    def __repr__(self) -> str:
        """The first rows, aligned."""
        cells = [
            self.columns,
            *([shown(row.get(c)) for c in self.columns] for row in self.rows[:_SHOWN_ROWS]),
        ]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells
        ]
        return "\n".join([*lines, *self._rest()])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(shown(row.get(c)))}</td>" for c in self.columns) + "</tr>"
            for row in self.rows[:_SHOWN_ROWS]
        )
        rest = "".join(f"<p>{escape(line)}</p>" for line in self._rest())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{rest}"

    def _rest(self) -> list[str]:
        return [f"… {len(self) - _SHOWN_ROWS} more rows"] if len(self) > _SHOWN_ROWS else []


def frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    """The rows as a pandas DataFrame, or as a `Table` where pandas is not installed."""
    try:
        import pandas as pd
    except ImportError:
        return Table(rows)
    return pd.DataFrame([dict(row) for row in rows])


def shown(value: Any) -> str:
    """A value in a cell: four digits of a number, the beginning of a text."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "" if value is None else str(value).replace("\n", " ")
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
