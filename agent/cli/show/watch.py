"""``ebs-agent status --watch``: the status, kept current until Ctrl-C; as JSON, a line at each change."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from agent.cli.client import Client, NoAnswerError
from agent.cli.show.output import print_line
from agent.cli.show.render import show_volume
from agent.cli.show.volume_table import show_volumes

REFRESH_S = 1.0


def watch_status(client: Client, volume: str | None, *, as_json: bool) -> None:
    """Show the status until interrupted; an agent that restarts is waited for."""
    with suppress(KeyboardInterrupt):
        if as_json:
            _watch_json(client, volume)
        else:
            _watch_table(client, volume)


def _watch_table(client: Client, volume: str | None) -> None:
    first = _draw(_read(client, volume))
    with Live(first, console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            time.sleep(REFRESH_S)
            try:
                view = _draw(_read(client, volume))
            except NoAnswerError as error:
                view = Text(error.message, style="red")
            live.update(view, refresh=True)


def _watch_json(client: Client, volume: str | None) -> None:
    last = None
    while True:
        try:
            answer = _read(client, volume)
        except NoAnswerError:
            if last is None:
                raise
        else:
            if answer != last:
                print_line(answer)
            last = answer
        time.sleep(REFRESH_S)


def _read(client: Client, volume: str | None) -> dict[str, Any]:
    return client.status() if volume is None else client.volume_status(volume)


def _draw(answer: dict[str, Any]) -> RenderableType:
    return show_volumes(answer) if "volumes" in answer else show_volume(answer)
