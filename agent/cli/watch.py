"""``ebs-agent status --watch``: the status table, kept current on the terminal until Ctrl-C."""

from __future__ import annotations

import time
from contextlib import suppress

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from agent.cli.client import Client, NoAnswerError
from agent.cli.render import show_volume, show_volumes

REFRESH_S = 1.0


def watch_status(client: Client, volume: str | None) -> None:
    """Show the status until interrupted; an agent that restarts is waited for."""
    first = _read(client, volume)
    with (
        suppress(KeyboardInterrupt),
        Live(first, console=Console(highlight=False), auto_refresh=False) as live,
    ):
        while True:
            time.sleep(REFRESH_S)
            try:
                view = _read(client, volume)
            except NoAnswerError as error:
                view = Text(error.message, style="red")
            live.update(view, refresh=True)


def _read(client: Client, volume: str | None) -> RenderableType:
    return show_volumes(client.status()) if volume is None else show_volume(client.volume_status(volume))
