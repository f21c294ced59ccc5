"""Tables whose cells nobody breaks: with as many columns as the terminal has room for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Row = TypeVar("Row")

WIDE_COLUMNS = 500
"""Wider than any row in its senses; a longer one is cut."""


class FittingTable(Generic[Row]):
    """A table with the first choice of columns whose rows are no wider than the terminal.

    ``cells`` has what stands in each column, by its title. Where none fits, ``otherwise`` is shown.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        cells: Mapping[str, Callable[[Row], Text]],
        choices: Sequence[Sequence[str]],
        otherwise: Sequence[RenderableType],
    ) -> None:
        self._rows = rows
        self._cells = cells
        self._choices = choices
        self._otherwise = otherwise

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for columns in self._choices:
            table = make_table(self._rows, self._cells, columns)
            wanted = Measurement.get(console, options.update(max_width=WIDE_COLUMNS), table).maximum
            if wanted <= options.max_width:
                yield table
                return
        yield from self._otherwise


def make_table(
    rows: Iterable[Row], cells: Mapping[str, Callable[[Row], Text]], columns: Iterable[str]
) -> Table:
    """Return the table with these columns, in whatever width."""
    shown = tuple(columns)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in shown:
        table.add_column(title, no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*(cells[title](row) for title in shown))
    return table
