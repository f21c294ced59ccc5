"""Tells how work goes on that takes its time: by a bar on a terminal, else by a line now and then.

Sentences go where the command's answer goes, and with JSON to standard error. The bar is on that terminal
too, or on standard error where only that is one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import typer
from msgspec import Struct
from typing_extensions import override

from agent.cli.show.estimate import WHOLE, Estimate
from agent.core.units import show_duration

if TYPE_CHECKING:
    from agent.cli.show.bar import Bar

STEP_PERCENT = 10.0
STEP_S = 60.0
"""In a line it is told how far the work is when it is so much further, or so much later."""


class Telling(Protocol):
    """What work under way is told by."""

    def tell(self, text: str | None, percent: float | None = None) -> None:
        """Tell a sentence, or with ``percent`` how far all of it is; without ``text`` only a bar moves."""


@contextmanager
def telling(
    what: str,
    *,
    to_stderr: bool,
    most_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Telling]:
    """Have work told while it goes on. ``what``: a few words for the bar.

    ``most_s``: how long is waited at most, where what is done says nothing about how long the rest takes.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    place = next((one for one in (stream, sys.stderr) if one.isatty()), None)
    lines = Lines(Estimate(clock), to_stderr=to_stderr)
    if place is None:
        yield lines
        return
    from agent.cli.show.bar import show_bar  # noqa: PLC0415 -- with rich, which only a terminal needs

    with show_bar(what, place, Estimate(clock), most_s) as bar:
        yield lines if bar is None else _Both(bar, None if place is stream else lines)


class Pace(Struct):
    """Of lines that say how far something is."""

    clock: Callable[[], float] = time.monotonic
    _told: tuple[float, float] | None = None
    """When it was told last, and how far it was."""

    def is_due(self, percent: float) -> bool:
        """Return whether it is to be told; note that it is."""
        now_s = self.clock()
        if self._told is not None:
            at_s, before = self._told
            if abs(percent - before) < STEP_PERCENT and now_s - at_s < STEP_S:
                return False
        self._told = (now_s, percent)
        return True


class Lines(Telling):
    """A line for each sentence, and for how far it is now and then."""

    def __init__(self, estimate: Estimate, *, to_stderr: bool) -> None:
        self._estimate = estimate
        self._to_stderr = to_stderr
        self._pace = Pace(estimate.clock)

    @override
    def tell(self, text: str | None, percent: float | None = None) -> None:
        if text is None:
            return
        if percent is not None and percent < WHOLE:
            self._estimate.note(percent)
            if not self._pace.is_due(percent):
                return
            left_s = self._estimate.find_left_s()
            if left_s is not None:
                text = f"{text.removesuffix('.')}, about {show_duration(left_s)} left."
        typer.echo(text, err=self._to_stderr)


class _Both(Telling):
    """A bar, with sentences above it, or in lines that go elsewhere."""

    def __init__(self, bar: Bar, lines: Lines | None) -> None:
        self._bar = bar
        self._lines = lines

    @override
    def tell(self, text: str | None, percent: float | None = None) -> None:
        if percent is not None:
            self._bar.move(percent)
        if self._lines is not None:
            self._lines.tell(text, percent)
        elif text is not None and (percent is None or percent >= WHOLE):
            self._bar.print(text)


def follow_lines(lines: Iterable[dict[str, Any]], what: str, *, as_json: bool) -> dict[str, Any] | None:
    """Tell an order's progress, and return its last line: what came of it, or the error it ends with.

    None where there is none: what was ordered is then not known to be done.
    """
    answer = None
    with telling(what, to_stderr=as_json) as progress:
        for line in lines:
            if "text" in line or "alive" in line:
                progress.tell(line.get("text"), line.get("percent"))
            else:
                answer = line
    return answer
