"""YAML's events as a tree of lists, mappings and scalars that stays within bounds, whatever the file says.

Scalars follow YAML 1.2's core rules, not 1.1's: ``no`` is a word and ``0770`` keeps its zero. Merge keys,
documents after the first and all tags but ``!!str`` are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from agent.core.quoting import quote
from agent.policy.yaml.problems import Problem

MAX_NODES = 20_000
"""Keys and values with every alias written out: room for hundreds of volumes, an end for a billion laughs."""
MAX_DEPTH = 32

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_WHOLE_NUMBER = re.compile("[-+]?(?:0|[1-9][0-9]{0,17})", re.ASCII)
_WORDS: dict[str, bool | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_STRING_TAGS = {None, "!", "tag:yaml.org,2002:str"}

FAST_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's where PyYAML was built with it; only its events are used, never its constructors."""


@dataclass(frozen=True)
class Mark:
    """A place in the text, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Scalar:
    """A single value, and the text it was written as."""

    value: Any
    text: str
    mark: Mark
    weight: int = 1
    """Keys and values below this node and in it, aliases written out."""
    height: int = 0


@dataclass(frozen=True)
class List:
    """Values in order."""

    items: tuple[YamlNode, ...]
    mark: Mark
    weight: int
    height: int


@dataclass(frozen=True)
class Mapping:
    """Keys with their values in the order they are written; a key may be here twice."""

    items: tuple[tuple[Scalar, YamlNode], ...]
    mark: Mark
    weight: int
    height: int


YamlNode: TypeAlias = "Scalar | List | Mapping"


class BrokenError(Exception):
    """The text cannot be read any further."""

    def __init__(self, mark: Mark, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(mark.line, mark.column, "", message, hint)


def compose(text: str, loader: Any = FAST_LOADER) -> tuple[YamlNode, list[Problem]]:
    """Return the one document of ``text`` and what is wrong in it; BrokenError where it cannot be read."""
    return _Composer(text, loader).compose()


class _Composer:
    """Turns the parser's events into nodes, counting as it goes, so that nothing grows out of bounds."""

    def __init__(self, text: str, loader: Any) -> None:
        self._text = text
        self._events: Iterator[Any] = yaml.parse(text, Loader=loader)
        self._anchors: dict[str, YamlNode] = {}
        self._weight = 0
        self._problems: list[Problem] = []

    def compose(self) -> tuple[YamlNode, list[Problem]]:
        node: YamlNode | None = None
        while not isinstance(event := self._next_event(), yaml.StreamEndEvent):
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            if node is not None:
                raise BrokenError(
                    _mark(event),
                    "A second document begins here.",
                    "A policy is one document: remove the line ---.",
                )
            node = self._compose_node(self._next_event(), 0)
        if node is None:
            node = Scalar(None, "", Mark(1, 1))
        return node, self._problems

    def _next_event(self) -> Any:
        try:
            return next(self._events)
        except yaml.MarkedYAMLError as error:
            raise self._explain(error) from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            # The pure-Python scanner lets chr() and int() fail on escapes and directives out of range.
            raise BrokenError(Mark(1, 1), f"This is not YAML: {error!s:.200}") from None

    def _explain(self, error: yaml.MarkedYAMLError) -> BrokenError:
        where = error.problem_mark or error.context_mark
        mark = Mark(1, 1) if where is None else Mark(where.line + 1, where.column + 1)
        lines = self._text.split("\n", mark.line)
        line = lines[mark.line - 1] if mark.line <= len(lines) else ""
        context = f" {error.context:.100}" if error.context else ""
        if context and error.context_mark is not None and error.context_mark.line + 1 != mark.line:
            context += f" that begins on line {error.context_mark.line + 1}"
        hint = "Indent with spaces: YAML does not allow tabs there." if "\t" in line[: mark.column] else None
        comma = "," if context else ""
        return BrokenError(mark, f"This is not YAML:{context}{comma} {error.problem:.200}.", hint)

    def _compose_node(self, event: Any, depth: int) -> YamlNode:
        if depth > MAX_DEPTH:
            raise BrokenError(_mark(event), f"The file is nested more than {MAX_DEPTH} deep.")
        if isinstance(event, yaml.AliasEvent):
            return self._resolve_alias(event, depth)
        self._count(1, event)
        if isinstance(event, yaml.SequenceStartEvent):
            node: YamlNode = self._compose_list(event, depth)
        elif isinstance(event, yaml.MappingStartEvent):
            node = self._compose_mapping(event, depth)
        else:
            node = self._compose_scalar(event)
        if event.anchor is not None:
            # Only now: an alias inside its own anchor finds nothing and cannot build a loop.
            self._anchors[event.anchor] = node
        return node

    def _compose_list(self, event: Any, depth: int) -> List:
        self._check_tag(event)
        items: list[YamlNode] = []
        while not isinstance(item := self._next_event(), yaml.SequenceEndEvent):
            items.append(self._compose_node(item, depth + 1))
        return List(tuple(items), _mark(event), 1 + sum(i.weight for i in items), _height(items))

    def _compose_mapping(self, event: Any, depth: int) -> Mapping:
        self._check_tag(event)
        items: list[tuple[Scalar, YamlNode]] = []
        while not isinstance(item := self._next_event(), yaml.MappingEndEvent):
            key = self._compose_node(item, depth + 1)
            value = self._compose_node(self._next_event(), depth + 1)
            if isinstance(key, Scalar):
                items.append((key, value))
            else:
                self._note(_mark(item), "A key must be a word, not a list or a mapping.")
        nodes = [value for _, value in items]
        return Mapping(
            tuple(items), _mark(event), 1 + len(items) + sum(n.weight for n in nodes), _height(nodes)
        )

    def _compose_scalar(self, event: Any) -> Scalar:
        text: str = event.value
        if event.tag not in _STRING_TAGS:
            self._check_tag(event)
        found = _CONTROL.search(text)
        if found:
            what = "a line break" if found[0] == "\n" else f"the control character U+{ord(found[0]):04X}"
            self._note(_mark(event), f"The value holds {what}.", "Write it on one line.")
            text = _CONTROL.sub("", text)
        is_plain = event.style in {None, ""} and event.tag is None
        return Scalar(_resolve(text) if is_plain else text, text, _mark(event))

    def _resolve_alias(self, event: Any, depth: int) -> YamlNode:
        node = self._anchors.get(event.anchor)
        if node is None:
            raise BrokenError(_mark(event), f"Nothing before this is anchored as &{event.anchor:.60}.")
        self._count(node.weight, event)
        if depth + node.height > MAX_DEPTH:
            raise BrokenError(_mark(event), f"The file is nested more than {MAX_DEPTH} deep.")
        return node

    def _count(self, weight: int, event: Any) -> None:
        self._weight += weight
        if self._weight > MAX_NODES:
            raise BrokenError(
                _mark(event),
                f"The file holds more than {MAX_NODES} keys and values, aliases written out.",
                "A policy is far smaller.",
            )

    def _check_tag(self, event: Any) -> None:
        if event.tag is not None and event.tag != "!":
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._note(_mark(event), f"The tag {quote(tag)} is not understood.", "Remove it.")

    def _note(self, mark: Mark, message: str, hint: str | None = None) -> None:
        self._problems.append(Problem(mark.line, mark.column, "", message, hint))


def _mark(event: Any) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1)


def _height(nodes: list[YamlNode]) -> int:
    return 1 + max((node.height for node in nodes), default=0)


def _resolve(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else text
