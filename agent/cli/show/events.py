"""``ebs-agent events``: what happened, chosen by volume and time, with the names of the policy."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import typer

from agent.cli.client import Client
from agent.cli.show.output import print_line
from agent.cli.show.words import clean
from agent.core.errors import InvalidValueError
from agent.core.model import parse_volume_id
from agent.core.units import parse_duration, parse_time, utc_now

_SHOWN_APART = frozenset(
    {"at", "event", "volume_id", "number", "name", "text", "message", "hint", "duration_s"}
)


def print_events(
    client: Client,
    volume: str | None,
    since: str | None,
    last: int | None,
    *,
    follows: bool,
    as_json: bool,
) -> None:
    """Print the events of ``volume`` (name, ID, device or path; None: of all, and of the node) since then.

    ``last``: how many of those that have happened; ``follows``: go on with all that happen.
    """
    begin = None if since is None else read_moment(since, utc_now())
    names = _Names(client)
    wanted = None if volume is None else names.find(volume)

    def is_chosen(event: dict[str, Any]) -> bool:
        is_its = wanted is None or event.get("volume_id") == wanted
        return is_its and (begin is None or parse_time(event["at"]) >= begin)

    chosen: Iterable[dict[str, Any]] = filter(is_chosen, client.events(follow=follows))
    if last is not None:
        # Which are the last is known when all that has happened is told, and no answer that goes on ends.
        happened = list(client.events())
        kept = deque(filter(is_chosen, happened), maxlen=last)
        newest = happened[-1]["number"] if happened else 0
        chosen = chain(kept, (event for event in chosen if event["number"] > newest)) if follows else kept
    for event in chosen:
        if as_json:
            print_line(event)
        else:
            typer.echo(show_event(event, names.tell(event)))


def read_moment(text: str, now: datetime) -> datetime:
    """Return when ``90s``, ``2h`` or ``1d`` before ``now`` was, or a time of ISO 8601, by default in UTC."""
    try:
        return parse_time(text)
    except ValueError:
        try:
            return now - timedelta(seconds=parse_duration(text))
        except (InvalidValueError, OverflowError) as error:
            raise InvalidValueError(
                f"{text!r} is no time: neither how long ago nor when.",
                hint="Write 90s, 15m, 2h or 1d, or a time such as 2026-01-31T12:00.",
            ) from error


class _Names:
    """The names of volumes by ID, as the agent tells them; asked again where a volume has come."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._names: dict[str, str] = {}
        self._unknown: set[str] = set()

    def find(self, volume: str) -> str:
        """Return the ID of a volume; one that is not here any more is taken at its word."""
        with suppress(InvalidValueError):
            return parse_volume_id(volume)
        status = self._client.volume_status(volume)
        if status["volume_id"] is None:
            raise InvalidValueError(
                f"{volume} has no volume yet, so nothing has happened to it.",
                hint=f"What it waits for: ebs-agent status {volume}.",
            )
        return str(status["volume_id"])

    def tell(self, event: dict[str, Any]) -> str | None:
        """Return what the volume of an event is called; None where it is about no volume."""
        volume_id = event.get("volume_id")
        if event.get("name"):
            return str(event["name"])
        if volume_id is None:
            return None
        if volume_id not in self._names and volume_id not in self._unknown:
            volumes = self._client.status()["volumes"]
            self._names.update({one["volume_id"]: one["name"] for one in volumes if one["name"]})
            self._unknown.add(volume_id)
        return self._names.get(volume_id, str(volume_id))


def show_event(event: dict[str, Any], about: str | None) -> str:
    """Return one line for an event: when, what, whom about, and what the agent said of it."""
    rest = {key: value for key, value in event.items() if key not in _SHOWN_APART and value is not None}
    said = event.get("text") or event.get("message") or ""
    words = [f"{key}={value}" for key, value in rest.items()] if not said else []
    took_s = event.get("duration_s")
    if took_s is not None:
        words.append(f"({took_s:.3g} s)")
    at = event["at"][:19].replace("T", " ")
    line = f"{at}Z  {event['event']:<18} {about or '-':<21} {' '.join(filter(None, (said, *words)))}"
    return str(clean(line)).rstrip()
