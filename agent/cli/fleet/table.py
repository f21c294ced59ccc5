"""The table of ``fleet``: the worst first, with the columns there is room for. Its texts are strangers'."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.text import Text

from agent.cli.fleet.rows import OFFLINE, UNREADABLE, Row, View
from agent.cli.show.fitting_table import FittingTable, make_table
from agent.cli.show.render import SIGNS, STYLES
from agent.cli.show.words import clean
from agent.core.units import show_size

_STYLES = {OFFLINE: "bold red", UNREADABLE: "bold red", **STYLES}
_SIGNS = {OFFLINE: "✗", UNREADABLE: "?", **SIGNS}


def show_fleet(view: View, *, is_wide: bool = False) -> RenderableType:
    """Return the sums, and the table: with every column, or with those that fit."""
    parts: list[RenderableType] = [_show_sums(view)]
    if view.rows:
        whole = make_table(view.rows, _CELLS, _CELLS)
        least = make_table(view.rows, _CELLS, _BY_WIDTH[-1])
        parts.append(whole if is_wide else FittingTable(view.rows, _CELLS, _BY_WIDTH, [least]))
    if view.remark:
        parts.append(Text(str(clean(view.remark)), style="yellow"))
    if view.more:
        parts.append(Text(f"… and {view.more} more: --worst 0 shows all.", style="dim"))
    if view.left_out:
        parts.append(Text(f"{view.left_out} messages were left out: more than is kept.", style="yellow"))
    return Group(*parts)


def list_names(view: View) -> list[str]:
    """Return node and volume of each row."""
    return [str(clean(f"{row.node}/{row.label}")) for row in view.rows]


def _show_sums(view: View) -> Text:
    offline = f" ({view.offline} not heard)" if view.offline else ""
    text = Text(f"{_count(view.nodes, 'node')}{offline}, {_count(sum(view.conditions.values()), 'volume')}")
    for place, (condition, count) in enumerate(view.conditions.items()):
        text.append(": " if place == 0 else ", ")
        text.append(f"{count} {clean(condition)}", style=_STYLES.get(condition, "bold red"))
    return text.append(".")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _show_condition(row: Row) -> Text:
    sign = _SIGNS.get(row.condition, "?")
    return Text(f"{sign} {clean(row.condition)}", style=_STYLES.get(row.condition, "bold red"))


def _show(find: Callable[[Row], str | None]) -> Callable[[Row], Text]:
    return lambda row: Text(str(clean(find(row) or "")))


_CELLS: dict[str, Callable[[Row], Text]] = {
    "NODE": _show(lambda row: row.node),
    "VOLUME": _show(lambda row: row.label),
    "CONDITION": _show_condition,
    "REASONS": _show(lambda row: " ".join(row.reasons)),
    "USE": _show(lambda row: None if row.used is None else f"{100 * row.used:.0f} %"),
    "SIZE": _show(lambda row: None if row.size_bytes is None else show_size(row.size_bytes)),
    "CLUSTER": _show(lambda row: row.cluster),
    "ID": _show(lambda row: row.volume_id),
    "USED AT": _show(lambda row: row.path),
    "MESSAGE": _show(lambda row: row.message),
}
_BY_WIDTH = tuple(tuple(_CELLS)[:count] for count in range(len(_CELLS), 2, -1))
"""The columns to try, the most first; the last are shown in whatever width."""
