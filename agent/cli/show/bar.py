"""A bar on a terminal, with sentences above it, that leaves nothing but those behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text
from typing_extensions import override

from agent.cli.show.estimate import WHOLE, Estimate
from agent.core.quoting import make_printable
from agent.core.units import show_duration

WIDTH = 24


class _Left(ProgressColumn):
    """How far it is, and how long it takes still; where that is not known, how long it has taken."""

    def __init__(self, estimate: Estimate, most_s: float | None) -> None:
        super().__init__()
        self._estimate = estimate
        self._began_s = estimate.clock()
        self._most_s = most_s

    @override
    def render(self, task: Task) -> Text:
        far = f"{task.completed:.0f} %  " if task.total is not None else ""
        return Text(far + self._tell_time(), style="dim", no_wrap=True)

    def _tell_time(self) -> str:
        past_s = self._estimate.clock() - self._began_s
        if self._most_s is not None:
            return f"{show_duration(max(0.0, self._most_s - past_s))} at most"
        left_s = self._estimate.find_left_s()
        return f"{show_duration(past_s)} so far" if left_s is None else f"about {show_duration(left_s)} left"


class Bar:
    """The bar while it is shown."""

    def __init__(self, what: str, progress: Progress, estimate: Estimate) -> None:
        self._progress = progress
        self._estimate = estimate
        self._task = progress.add_task(make_printable(what), total=None)

    def print(self, text: str) -> None:
        """Show a sentence above."""
        self._progress.console.print(make_printable(text), markup=False, soft_wrap=True)

    def move(self, percent: float) -> None:
        """Show how far the work is."""
        self._estimate.note(percent)
        self._progress.update(self._task, total=WHOLE, completed=percent)


@contextmanager
def show_bar(what: str, place: TextIO, estimate: Estimate, most_s: float | None) -> Iterator[Bar | None]:
    """Show a bar on a terminal while it is within; None where that cannot draw one."""
    console = Console(file=place, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield None
        return
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(WIDTH),
        _Left(estimate, most_s),
        console=console,
        transient=True,
        refresh_per_second=4,
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=sys.stderr.isatty(),
    )
    with progress:
        yield Bar(what, progress, estimate)
