"""A YAML document as its parser's events, aliases written out, within bounds whatever the text says.

PyYAML's own composer is not used: it refuses an anchor that is set anew, follows an alias inside its own
anchor in a circle, and forgets where aliases stand that make a file too large.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml
from msgspec import Struct

from agent.policy.yaml.problems import Problem

MAX_NODES = 20_000
"""Keys and values with every alias written out: room for hundreds of volumes, an end for a billion laughs."""
MAX_DEPTH = 32

FAST_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it; only its events are used, never its constructors."""


class Mark(Struct, frozen=True):
    """A place in the text, counted from 1."""

    line: int
    column: int

    @classmethod
    def of(cls, event: Any) -> Mark:
        """Return where an event begins; of one that an alias stands for, at its anchor."""
        return cls(event.start_mark.line + 1, event.start_mark.column + 1)


class BrokenError(Exception):
    """The text cannot be read any further."""

    def __init__(self, mark: Mark, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(mark.line, mark.column, "", message, hint)


class Events:
    """The events of the nodes of the one document in ``text``; BrokenError where it cannot be read further.

    They are counted as they pass, and those are remembered that an alias may stand for.
    """

    def __init__(self, text: str, loader: Any = FAST_LOADER) -> None:
        self.written: Any = None
        """What is written in the text where the last event was read: that event, or an alias."""
        self._text = text
        self._loader = loader
        self._nodes = 0
        self._depth = 0
        self._anchored: dict[str, list[Any]] = {}
        self._begun: list[tuple[str | None, list[Any]]] = []
        """The lists and mappings around, by anchor; with their events so far where they have one."""

    def __iter__(self) -> Iterator[Any]:
        has_begun = False
        try:
            for event in yaml.parse(self._text, Loader=self._loader):
                self.written = event
                if isinstance(event, (yaml.NodeEvent, yaml.CollectionEndEvent)):
                    yield from self._write_out(event)
                elif isinstance(event, yaml.DocumentStartEvent):
                    if has_begun:
                        raise BrokenError(
                            Mark.of(event),
                            "A second document begins here.",
                            "A policy is one document: remove the line ---.",
                        )
                    has_begun = True
        except yaml.MarkedYAMLError as error:
            raise _explain(error, self._text) from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # The pure-Python scanner lets chr() and int() fail on escapes and directives out of range.
            raise BrokenError(Mark(1, 1), f"This is not YAML: {error!s:.200}") from None

    def _write_out(self, event: Any) -> Iterator[Any]:
        events = self._find_anchored(event) if isinstance(event, yaml.AliasEvent) else [event]
        for one in events:
            self._count(one)
            yield one
        if isinstance(event, yaml.CollectionStartEvent):
            self._begun.append((event.anchor, []))
        for anchor, inner in self._begun:
            if anchor is not None:
                inner.extend(events)
        # Only at its end: an alias inside its own anchor finds nothing and cannot go in circles.
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, events = self._begun.pop()
            if anchor is not None:
                self._anchored[anchor] = events
        elif isinstance(event, yaml.ScalarEvent) and event.anchor is not None:
            self._anchored[event.anchor] = events

    def _find_anchored(self, alias: Any) -> list[Any]:
        if alias.anchor not in self._anchored:
            raise BrokenError(Mark.of(alias), f"Nothing before this is anchored as &{alias.anchor:.60}.")
        return self._anchored[alias.anchor]

    def _count(self, event: Any) -> None:
        if isinstance(event, yaml.CollectionEndEvent):
            self._depth -= 1
            return
        if self._depth > MAX_DEPTH:
            raise BrokenError(Mark.of(self.written), f"The file is nested more than {MAX_DEPTH} deep.")
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise BrokenError(
                Mark.of(self.written),
                f"The file holds more than {MAX_NODES} keys and values, aliases written out.",
                "A policy is far smaller.",
            )
        self._depth += isinstance(event, yaml.CollectionStartEvent)


def _explain(error: yaml.MarkedYAMLError, text: str) -> BrokenError:
    where = error.problem_mark or error.context_mark
    mark = Mark(1, 1) if where is None else Mark(where.line + 1, where.column + 1)
    lines = text.split("\n", mark.line)
    line = lines[mark.line - 1] if mark.line <= len(lines) else ""
    context = f" {error.context:.100}" if error.context else ""
    if context and error.context_mark is not None and error.context_mark.line + 1 != mark.line:
        context += f" that begins on line {error.context_mark.line + 1}"
    hint = "Indent with spaces: YAML does not allow tabs there." if "\t" in line[: mark.column] else None
    comma = "," if context else ""
    return BrokenError(mark, f"This is not YAML:{context}{comma} {error.problem:.200}.", hint)
