"""How answers of the agent look on a terminal: from the JSON of ``agent.report.api`` to rich renderables."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from agent.cli.show.render_steps import draw_attachments, draw_calls, draw_node, draw_steps, is_named
from agent.core.units import show_duration, show_size

STYLES = {
    "Ready": "green",
    "Degraded": "yellow",
    "Preparing": "cyan",
    "Pending": "cyan",
    "Unmanaged": "dim",
    "Refused": "magenta",
    "Failed": "bold red",
    "Lost": "bold red",
}
SIGNS = {
    "Ready": "✓",
    "Degraded": "!",
    "Preparing": "…",
    "Pending": "…",
    "Unmanaged": "·",
    "Refused": "⊘",
    "Failed": "✗",
    "Lost": "✗",
}


def print_view(view: RenderableType) -> None:
    """Print for people: colours on a terminal, and lines as long as they are where nobody reads columns."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(view)


def clean(answer: Any) -> Any:
    """Return an answer whose texts cannot steer a terminal: labels and serials come from devices."""
    if isinstance(answer, str):
        return "".join(character if character.isprintable() else "�" for character in answer)
    if isinstance(answer, list):
        return [clean(item) for item in answer]
    if isinstance(answer, dict):
        return {key: clean(value) for key, value in answer.items()}
    return answer


def show_volumes(answer: dict[str, Any]) -> RenderableType:
    """Return the table of ``status``."""
    volumes = clean(answer["volumes"])
    head = tuple(draw_node(clean(answer)))
    if not volumes:
        nothing = Text("No EBS volume is attached to this instance, and the policy expects none.")
        return Group(*head, nothing)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("VOLUME", "CONDITION", "USED AT", "TYPE", "SIZE", "USE", "LAST STEP"):
        table.add_column(
            title, no_wrap=title in {"CONDITION", "SIZE", "USE"}, justify="left", overflow="fold"
        )
    for volume in volumes:
        table.add_row(
            _show_names(volume),
            show_condition(volume),
            _show_place(volume),
            Text(volume["fstype"] or ""),
            Text(_show_size(volume)),
            Text(_show_use(volume)),
            _show_last_step(volume),
        )
    return Group(*head, table, *_show_remarks(volumes), *draw_attachments(answer))


def show_volume(volume: dict[str, Any]) -> RenderableType:
    """Return everything about one volume, one thing a line."""
    volume = clean(volume)
    step = volume["last_step"]
    rows = {
        "volume": volume["volume_id"],
        "condition": show_condition(volume),
        "since": volume["since"] and f"{volume['since']} ({_show_age(volume['since'])})",
        "": volume["message"],
        "remedy": volume["hint"],
        "drift": "\n".join(one["text"] for one in volume.get("drift", [])),
        "required": "yes" if volume["required"] else None,
        "device": volume["device"],
        "used at": volume["path"],
        "type": volume["fstype"],
        "size": _show_size(volume),
        "use": _show_use(volume),
        "snapshots": _show_snapshots(volume.get("snapshots")),
        "AWS's checks": _show_checks(volume),
        "last step": step and f"{step['text']}: {step['outcome']} ({_show_age(step['at'])})",
    }
    return Group(
        Text(_label(volume), style="bold"), _grid((key, value) for key, value in rows.items() if value)
    )


def show_plan(answer: dict[str, Any]) -> RenderableType:
    """Return what would be done, volume by volume."""
    parts: list[RenderableType] = []
    calls = clean(answer.get("cloud", []))
    for volume in clean(answer["volumes"]):
        parts.append(Text.assemble((_label(volume), "bold"), f"  {volume['volume_id'] or ''}"))
        own = [call for call in calls if call["volume_id"] == volume["volume_id"] or is_named(call, volume)]
        calls = [call for call in calls if call not in own]
        parts.extend(draw_steps(volume, has_more=bool(own)))
        parts.extend(draw_calls(own))
    for name in dict.fromkeys(call["name"] for call in calls):
        parts.append(Text(name, style="bold"))
        parts.extend(draw_calls(call for call in calls if call["name"] == name))
    parts.extend(Text(one["text"], style="yellow") for one in clean(answer.get("departures", [])))
    parts.extend(draw_attachments(answer) if parts else ())
    return Group(*parts) if parts else Text("There is no volume to do anything for.")


def show_explanation(volume: dict[str, Any]) -> RenderableType:
    """Return a volume's status, what would be done, and every fact that decides it."""
    volume = clean(volume)
    facts = ((fact["name"], fact["value"]) for fact in volume["facts"])
    return Group(
        show_volume(volume),
        Text("\nPlan", style="bold"),
        *draw_steps(volume),
        Text("\nObserved", style="bold"),
        _grid(facts),
        *draw_attachments(volume),
    )


def show_snapshots(answer: dict[str, Any]) -> RenderableType:
    """Return the table of ``snapshots``; one still being written shows how far it is."""
    snapshots = clean(answer["snapshots"])
    if not snapshots:
        return Text("There is no snapshot.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("SNAPSHOT", "VOLUME", "STATE", "SIZE", "BEGUN", "FROZEN", "MADE BY"):
        table.add_column(title, no_wrap=title != "MADE BY", overflow="fold")
    for one in snapshots:
        progress = f" {one['progress_percent']} %" if one["state"] == "pending" else ""
        table.add_row(
            Text(one["snapshot_id"]),
            Text(one["volume_id"]),
            Text(f"{one['state']}{progress}"),
            Text(show_size(one["size_bytes"])),
            Text(one["started_at"][:19]),
            Text(one["frozen"] or "-"),
            Text(_name_maker(one)),
        )
    return table


def show_orphans(answer: dict[str, Any]) -> RenderableType:
    """Return the table of ``orphans`` and their sum."""
    found = clean(answer["orphans"])
    if not found:
        return Text("Every volume of this cluster's claims is held.")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("VOLUME", "CLAIM", "SIZE", "TYPE", "ZONE", "HELD SINCE", "LAST HOLDER", "MAY BE DELETED"):
        table.add_column(title, no_wrap=title != "MAY BE DELETED", overflow="fold")
    for one in found:
        words = (one["claim"], show_size(one["size_bytes"]), one["type"], one["zone"], one["held_since"][:19])
        may_go = "yes" if one["may_be_deleted"] else f"no: {one['obstacle']}"
        table.add_row(*map(Text, (one["volume_id"], *words, one["last_holder"] or "-", may_go)))
    whole = show_size(sum(one["size_bytes"] for one in found))
    free = sum(one["may_be_deleted"] for one in found)
    return Group(table, Text(f"{len(found)} volumes, {whole}; {free} may be deleted.", style="bold"))


def show_event(event: dict[str, Any]) -> str:
    """Return one line for an event."""
    event = clean(event)
    rest = {key: value for key, value in event.items() if key not in {"at", "event", "volume_id", "number"}}
    fields = " ".join(f"{key}={value}" for key, value in rest.items() if value is not None)
    return f"{event['at']}  {event['event']:<20} {event.get('volume_id') or '-':<21} {fields}".rstrip()


def show_condition(volume: dict[str, Any]) -> Text:
    """Return the condition with its sign, so that it can be told without colour, and its reason."""
    condition = volume["condition"]
    text = Text(f"{SIGNS.get(condition, '?')} {condition}", style=STYLES.get(condition, ""))
    return text.append(f" {volume['reason']}", style="dim") if volume["reason"] else text


def _name_maker(snapshot: dict[str, Any]) -> str:
    if not snapshot["made_by_agent"]:
        return "someone else"
    schedule = snapshot["schedule"]
    return f"the agent, on the schedule of {schedule}" if schedule else "the agent"


def _show_remarks(volumes: Iterable[dict[str, Any]]) -> Iterable[RenderableType]:
    """Explain below the table every volume that is not simply ready."""
    for volume in volumes:
        coming = _show_initialization(volume)
        if coming is not None:
            yield Text(f"\n… {_label(volume)}: {coming}.", style="dim")
        if volume["condition"] in {"Ready", "Unmanaged"} or not volume["message"]:
            continue
        line = Text(f"\n{SIGNS.get(volume['condition'], '?')} ", style=STYLES.get(volume["condition"], ""))
        line.append(volume["message"], style="default")
        if volume["hint"]:
            line.append(f" {volume['hint']}", style="dim")
        yield line


def _show_names(volume: dict[str, Any]) -> Text:
    name, volume_id = volume["name"], volume["volume_id"]
    text = Text(name or volume_id or "?", style="bold" if name else "dim")
    return text.append(f"\n{volume_id}", style="dim") if name and volume_id else text


def _show_place(volume: dict[str, Any]) -> Text:
    text = Text(volume["path"] or "-")
    return text.append(f"\n{volume['device']}", style="dim") if volume["device"] else text


def _show_size(volume: dict[str, Any]) -> str:
    return "" if volume["size_bytes"] is None else show_size(volume["size_bytes"])


def _show_use(volume: dict[str, Any]) -> str:
    usage = volume["filesystem"]
    if not usage or not usage["size_bytes"]:
        return ""
    used_bytes = usage["size_bytes"] - usage["avail_bytes"]
    read_only = " read-only" if usage["is_read_only"] else ""
    return f"{100 * used_bytes / usage['size_bytes']:.0f} %{read_only}"


def _show_snapshots(facts: dict[str, Any] | None) -> str | None:
    """Return how the snapshots of a volume's schedule are; None where it has none, or that is not known."""
    if facts is None:
        return None
    newest, due, failed = facts["last_completed_at"], facts["due_at"], facts["failed"]
    parts = [f"newest of {newest[:16]}Z ({_show_age(newest)})" if newest else "none has completed"]
    parts += [f"next due {due[:16]}Z"] if due else []
    parts += [f"failed: {', '.join(failed)}"] if failed else []
    return "; ".join(parts)


def _show_checks(volume: dict[str, Any]) -> str | None:
    """Return what AWS's own status checks found; None where AWS was not asked."""
    checks, coming = volume.get("aws_checks"), _show_initialization(volume)
    return checks and ": ".join(filter(None, (checks["status"], coming)))


def _show_initialization(volume: dict[str, Any]) -> str | None:
    """Return how far a volume is whose content still comes from where it was made from."""
    coming = (volume.get("aws_checks") or {}).get("initialization")
    if not coming or coming["percent"] >= 100:  # noqa: PLR2004 - per cent
        return None
    left = "" if coming["left_s"] is None else f", about {show_duration(coming['left_s'])} left"
    return f"{coming['percent']} % of its content has come{left}; until then reading the rest is slow"


def _show_last_step(volume: dict[str, Any]) -> Text:
    step = volume["last_step"]
    if not step:
        return Text("")
    text = Text(step["step"]).append(f" {_show_age(step['at'])}", style="dim")
    return text if step["outcome"] == "done" else text.append(f"\n{step['outcome']}", style="red")


def _show_age(at: str) -> str:
    """Return how long ago ``at`` (ISO 8601, UTC) was, in its largest unit."""
    then = datetime.fromisoformat(at.replace("Z", "+00:00"))  # Python 3.10 does not know Z
    seconds = max(0, int((datetime.now(timezone.utc) - then).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def _label(volume: dict[str, Any]) -> str:
    return str(volume["name"] or volume["volume_id"] or "?")


def _grid(rows: Iterable[tuple[str, Any]]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(f"  {key}", value if isinstance(value, Text) else Text(str(value)))
    return table
