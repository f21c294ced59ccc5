"""How what is going to be done looks on a terminal: the node's steps, and what is asked of AWS."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import RenderableType
from rich.text import Text


def is_named(call: dict[str, Any], volume: dict[str, Any]) -> bool:
    """Tell whether a call that makes a volume is for this entry."""
    return call["volume_id"] is None and call["name"] == volume["name"]


def draw_calls(calls: Iterable[dict[str, Any]]) -> Iterable[RenderableType]:
    """Show what is going to be asked of AWS, with since when and why not yet."""
    for call in calls:
        when = f", not before {call['at'][:16].replace('T', ' ')} UTC" if call["at"] else ""
        yield Text(f"  at AWS: {call['text']}{when}")
        if call["why"]:
            yield Text(f"     {call['why']}", style="dim")


def draw_steps(volume: dict[str, Any], *, has_more: bool = False) -> Iterable[RenderableType]:
    """Show the steps of one volume; ``has_more``: something else follows."""
    if not volume["plan"] and not has_more:
        yield Text("  nothing to do", style="dim")
    for number, step in enumerate(volume["plan"], start=1):
        yield Text(f"  {number}. {step['text']}")
        if step["hint"]:
            yield Text(f"     {step['hint']}", style="dim")


def draw_attachments(answer: dict[str, Any]) -> Iterable[RenderableType]:
    """Show how many of the instance's places for volumes are taken, where that is known."""
    told = answer.get("attachments")
    if told is not None:
        sharing = ", a limit that network interfaces and the instance store share" if told["shared"] else ""
        yield Text(f"\n{told['instance_type']}: {told['text']}{sharing}", style="dim")
    yield from (Text(remark, style="dim") for remark in answer.get("remarks", ()))


def draw_node(answer: dict[str, Any]) -> Iterable[RenderableType]:
    """Show what concerns the node as a whole: that it ends, and what is wrong with it."""
    told = answer.get("ending")
    if told is not None:
        yield Text(f"{told['text']}\n", style="bold red")
    for one in answer.get("node_conditions", ()):
        line = Text.assemble(
            ("✗ ", "bold red"), (one["reason"], "bold"), f" {one['about']}: {one['message']}"
        )
        yield line.append(f" {one['hint'] or ''}\n", style="dim")
