"""Facts of a volume in a few words, from the JSON of ``agent.report.api``."""

from __future__ import annotations

from typing import Any

from agent.core.units import parse_time, show_duration, show_size, utc_now


def clean(answer: Any) -> Any:
    """Return an answer whose texts cannot steer a terminal: labels and serials come from devices."""
    if isinstance(answer, str):
        return "".join(character if character.isprintable() else "�" for character in answer)
    if isinstance(answer, list):
        return [clean(item) for item in answer]
    if isinstance(answer, dict):
        return {key: clean(value) for key, value in answer.items()}
    return answer


def label(volume: dict[str, Any]) -> str:
    """Return what a volume is called: its name in the policy, else its ID."""
    return str(volume["name"] or volume["volume_id"] or "?")


def tell_size(volume: dict[str, Any]) -> str:
    """Return the size of its device; nothing where it has none."""
    return "" if volume["size_bytes"] is None else show_size(volume["size_bytes"])


def tell_use(volume: dict[str, Any]) -> str:
    """Return how full its filesystem is; nothing where none is mounted."""
    usage = volume["filesystem"]
    if not usage or not usage["size_bytes"]:
        return ""
    used_bytes = usage["size_bytes"] - usage["avail_bytes"]
    read_only = " read-only" if usage["is_read_only"] else ""
    return f"{100 * used_bytes / usage['size_bytes']:.0f} %{read_only}"


def tell_age(at: str) -> str:
    """Return how long ago ``at`` (ISO 8601, UTC) was, in its largest unit."""
    seconds = max(0, int((utc_now() - parse_time(at)).total_seconds()))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def tell_initialization(volume: dict[str, Any]) -> str | None:
    """Return how far a volume is whose content still comes from where it was made from."""
    coming = (volume.get("aws_checks") or {}).get("initialization")
    if not coming or coming["percent"] >= 100:  # noqa: PLR2004 - per cent
        return None
    left = "" if coming["left_s"] is None else f", about {show_duration(coming['left_s'])} left"
    return f"{coming['percent']} % of its content has come{left}; until then reading the rest is slow"
