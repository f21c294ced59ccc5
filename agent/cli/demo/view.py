"""How the demo looks: a live view on a terminal, and plain lines anywhere else."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.cli.demo.scene import Scene
from agent.cli.show.render import show_condition
from agent.cli.show.words import clean
from agent.core.units import show_size

EVENTS_ROOMY = 8
EVENTS_TIGHT = 3
WEB_FONT = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""What rich has pictures fetch from elsewhere; any monospaced font does."""
ROOMY_LINES = 50
"""Below this height of the terminal, scenes that are over are drawn in two lines."""
PICTURE_WIDTH = 116

INTRODUCTION = (
    "On a HyperPod node, EBS volumes are attached through an API, and then somebody logs in, formats and "
    "mounts them by hand. ebs-agent is that somebody. Here files stand in for volumes; devices, mkfs and "
    "mounts are real."
)


class View:
    """What the audience sees. ``show`` is called as often as there is something to see."""

    def __init__(self, scenes: Sequence[Scene], directory: Path, hints: Sequence[str]) -> None:
        self._scenes = scenes
        self._directory = directory
        self._hints = hints
        self._live: Live | None = None
        self._said: set[str] = set()
        self._last: RenderableType = Text("")

    @property
    def is_live(self) -> bool:
        return self._live is not None

    @contextmanager
    def open(self) -> Iterator[None]:
        """Show the live view while the block runs, where there is a terminal for it."""
        if not sys.stdout.isatty():
            self._say("", INTRODUCTION)
            yield
            return
        with Live(Text(""), console=Console(highlight=False), auto_refresh=False) as self._live:
            yield

    def show(
        self, volumes: dict[str, dict[str, Any]], events: Sequence[dict[str, Any]], *, is_over: bool = False
    ) -> None:
        """Show the scenes with the status of their volumes (by ID), and the latest events."""
        self._last = self._draw(volumes, events, is_over=is_over)
        if self._live is not None:
            self._live.update(self._last, refresh=True)
            return
        for event in events:
            self._say(f"event {event['number']}", f"     {self._tell(event)}")
        for number, scene in enumerate(self._scenes, start=1):
            if scene.volume_id in volumes:
                self._say(scene.name, f"\n{number}. {scene.title}: {scene.name}\n   {scene.story}")
            if scene.is_over and scene.proof:
                self._say(f"{scene.name} is over", f"   => {scene.proof}")

    def save_picture(self, path: Path) -> None:
        """Write the last view as an SVG picture."""
        console = Console(record=True, width=PICTURE_WIDTH, file=io.StringIO(), force_terminal=True)
        console.print(self._last)
        drawn = console.export_svg(title="ebs-agent demo")
        path.write_text(WEB_FONT.sub("", drawn), encoding="utf-8")

    def _say(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def _tell(self, event: dict[str, Any]) -> str:
        """Return an event as one short line: ``ebs-agent events`` tells more."""
        event = clean(event)
        names = {scene.volume_id: scene.name for scene in self._scenes}
        said = event.get("message") or event.get("text") or event.get("path") or event.get("device") or ""
        took = f" ({event['duration_s'] * 1000:.0f} ms)" if "duration_s" in event else ""
        said = said.replace(f"{self._directory}/", "…/")
        return f"{event['event']:<17} {names.get(event.get('volume_id', ''), ''):<12} {said}{took}".rstrip()

    def _draw(
        self, volumes: dict[str, dict[str, Any]], events: Sequence[dict[str, Any]], *, is_over: bool
    ) -> RenderableType:
        is_roomy = self._live is None or self._live.console.height >= ROOMY_LINES
        table = Table(box=None, show_header=False, pad_edge=False, expand=True)
        table.add_column(width=2)
        table.add_column(ratio=1)
        for number, scene in enumerate(self._scenes, start=1):
            volume = clean(volumes.get(scene.volume_id))
            table.add_row(Text(f"{number}.", style="bold"), _draw_scene(scene, volume, is_roomy=is_roomy))
            if is_roomy:
                table.add_row("", "")
        shown = events[-(EVENTS_ROOMY if is_roomy else EVENTS_TIGHT) :]
        lines = [Text(self._tell(event), no_wrap=True, overflow="ellipsis") for event in shown]
        log = Panel(Group(*lines) if lines else Text("…"), title="ebs-agent events", title_align="left")
        parts: list[RenderableType] = [Text(INTRODUCTION), Text(""), table, log]
        if is_over:
            parts += [Text(hint) for hint in self._hints]
        return Group(*parts)


def _draw_scene(scene: Scene, volume: dict[str, Any] | None, *, is_roomy: bool) -> RenderableType:
    """Draw a scene: its title before it, all of it during it, and in a low terminal its proof after it."""
    if volume is None:
        return Text(scene.title, style="dim")
    title = Text.assemble((scene.title, "bold"), ("  " + scene.name, "dim"))
    proof = Text(f"→ {scene.proof}", style="green" if scene.is_over else "cyan")
    if scene.is_over and not is_roomy:
        return Group(title, proof)
    facts = [volume["device"], volume["fstype"], volume["path"]]
    size = show_size(volume["size_bytes"]) if volume["size_bytes"] else None
    now = (
        show_condition(volume).append("  ").append("  ".join(f for f in (size, *facts) if f), style="default")
    )
    parts: list[RenderableType] = [title, Text(scene.story, style="dim"), now]
    if volume["condition"] not in {"Ready", "Unmanaged"} and volume["message"]:
        parts.append(Text(volume["message"]))
    return Group(*parts, proof) if scene.proof else Group(*parts)
