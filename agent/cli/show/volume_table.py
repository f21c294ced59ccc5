"""The table of ``status``: the worst first, and as many columns as the terminal has room for.

No ID and no path is ever broken: what does not fit is left out, and asked for by ``-o wide``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from agent.cli.show.fitting_table import FittingTable, make_table
from agent.cli.show.render import SIGNS, STYLES, show_condition
from agent.cli.show.render_steps import draw_attachments, draw_node
from agent.cli.show.words import clean, label, tell_age, tell_initialization, tell_size, tell_use

_POD_KEYS = ("persistent_volume_claim", "persistent_volume")
"""What says which volume of a pod's it is, of an agent that is not older."""
_WORST_FIRST = {condition: rank for rank, condition in enumerate(STYLES)}


def show_volumes(answer: dict[str, Any]) -> RenderableType:
    """Return the table of ``status``, in the width there is.

    Where not even the columns that matter fit, each volume is told in a few lines, which nobody breaks but
    the terminal itself, so that they can be copied.
    """
    return _show(answer, lambda volumes: FittingTable(volumes, _CELLS, _BY_WIDTH, [*_list_lines(volumes)]))


def show_volumes_wide(answer: dict[str, Any]) -> RenderableType:
    """Return the table with every column, and with a row to a line, however long."""
    return _show(answer, lambda volumes: make_table(volumes, _CELLS, _list_columns(volumes)))


def _list_columns(volumes: Iterable[dict[str, Any]]) -> Iterable[str]:
    """Return every column that says something of any volume, or would on most nodes."""
    is_of_pods = any(volume.get(key) for volume in volumes for key in _POD_KEYS)
    return (title for title in _CELLS if title != "PVC" or is_of_pods)


def list_names(answer: dict[str, Any]) -> list[str]:
    """Return the names of all volumes, and the IDs of those without one."""
    return [label(volume) for volume in _sort(clean(answer["volumes"]))]


def _show(answer: dict[str, Any], draw: Callable[[list[dict[str, Any]]], RenderableType]) -> RenderableType:
    volumes = _sort(clean(answer["volumes"]))
    head = tuple(draw_node(clean(answer)))
    if not volumes:
        nothing = Text("No EBS volume is attached to this instance, and the policy expects none.")
        return Group(*head, nothing)
    return Group(*head, draw(volumes), *_show_remarks(volumes), *draw_attachments(answer))


def _sort(volumes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the worst first, what this program does not know above all; else in the agent's order."""
    return sorted(volumes, key=lambda volume: _WORST_FIRST.get(volume["condition"], -1))


def _list_lines(volumes: Iterable[dict[str, Any]]) -> Iterable[Text]:
    for volume in volumes:
        head = Text.assemble((label(volume), "bold"), "  ", show_condition(volume))
        others = (volume["volume_id"] if volume["name"] else None, volume["path"], volume["device"])
        for line in (head, *(Text(f"  {text}", style="dim") for text in others if text)):
            line.no_wrap, line.overflow = True, "ignore"
            yield line


def _show_names(volume: dict[str, Any]) -> Text:
    name, volume_id = volume["name"], volume["volume_id"]
    text = Text(name or volume_id or "?", style="bold" if name else "dim")
    return text.append(f"\n{volume_id}", style="dim") if name and volume_id else text


def _show_place(volume: dict[str, Any]) -> Text:
    text = Text(volume["path"] or "-")
    return text.append(f"\n{volume['device']}", style="dim") if volume["device"] else text


def _show_claim(volume: dict[str, Any]) -> Text:
    claim, persistent_volume = (volume.get(key) for key in _POD_KEYS)
    told = (Text(claim or ""), Text(persistent_volume or "", style="dim"))
    return Text("\n").join(text for text in told if text)


def _show_last_step(volume: dict[str, Any]) -> Text:
    step = volume["last_step"]
    if not step:
        return Text("")
    text = Text(step["step"]).append(f" {tell_age(step['at'])}", style="dim")
    return text if step["outcome"] == "done" else text.append(f"\n{step['outcome']}", style="red")


_CELLS: dict[str, Callable[[dict[str, Any]], Text]] = {
    "VOLUME": _show_names,
    "CONDITION": show_condition,
    "SINCE": lambda volume: Text(tell_age(volume["since"]) if volume["since"] else ""),
    "USED AT": _show_place,
    "TYPE": lambda volume: Text(volume["fstype"] or ""),
    "SIZE": lambda volume: Text(tell_size(volume)),
    "USE": lambda volume: Text(tell_use(volume)),
    "PVC": _show_claim,
    "LAST STEP": _show_last_step,
}
_USUAL = tuple(title for title in _CELLS if title not in {"SINCE", "PVC"})
_BY_WIDTH = tuple(_USUAL[:count] for count in range(len(_USUAL), 2, -1))
"""The columns to try, the most first: what is at the end is missed least."""


def _show_remarks(volumes: Iterable[dict[str, Any]]) -> Iterable[RenderableType]:
    """Explain below the table every volume that is not simply ready."""
    for volume in volumes:
        coming = tell_initialization(volume)
        if coming is not None:
            yield Text(f"\n… {label(volume)}: {coming}.", style="dim")
        if volume["condition"] in {"Ready", "Unmanaged"} or not volume["message"]:
            continue
        line = Text(f"\n{SIGNS.get(volume['condition'], '?')} ", style=STYLES.get(volume["condition"], ""))
        line.append(volume["message"], style="default")
        if volume["hint"]:
            line.append(f" {volume['hint']}", style="dim")
        yield line
