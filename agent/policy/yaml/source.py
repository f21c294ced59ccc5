"""A YAML file's content with the place of every key and value, read so that no file can hurt or delay.

Syntax only: what the keys mean is not known here. Nothing is ever constructed but dicts, lists, strings,
whole numbers, booleans and None. Scalars follow YAML 1.2's core rules, not 1.1's: ``no`` is a word and
``0770`` keeps its zero. Merge keys, documents after the first and all tags but ``!!str`` are refused.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from msgspec import Struct, field

from agent.core.quoting import quote
from agent.policy.yaml.events import FAST_LOADER, BrokenError, Events, Mark
from agent.policy.yaml.problems import MAX_BYTES, Loc, Problem, name_place

_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
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


class YamlSource(Struct):
    """The content of a YAML file, where each part of it stands, and what is wrong with its syntax."""

    content: Any = None
    values: dict[Loc, Mark] = field(default_factory=dict)
    keys: dict[Loc, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    is_readable: bool = True
    """False: the syntax is broken and ``content`` means nothing."""

    def find_mark(self, loc: Loc, *, at_key: bool = False) -> Mark:
        """Return where ``loc`` stands, or the nearest thing around it that is written in the file."""
        for length in range(len(loc), -1, -1):
            part = loc[:length]
            is_around = length < len(loc)
            if (at_key or is_around) and part in self.keys:
                return self.keys[part]
            if part in self.values:
                return self.values[part]
        return Mark(1, 1)


def read_source(raw: bytes | str, loader: Any = FAST_LOADER) -> YamlSource:
    """Read one YAML document. Never raises: what is wrong is in the result's ``problems``."""
    source = YamlSource()
    try:
        _Reader(Events(_decode(raw), loader), source).read_document()
    except BrokenError as error:
        return YamlSource(problems=[error.problem], is_readable=False)
    source.problems = list(dict.fromkeys(source.problems))  # what is wrong at an anchor is so at each alias
    return source


def _decode(raw: bytes | str) -> str:
    if len(raw) > MAX_BYTES:
        raise BrokenError(
            Mark(0, 0), f"The file is larger than {MAX_BYTES >> 20} MiB.", "A policy is far smaller."
        )
    if isinstance(raw, bytes):
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            before = raw[: error.start].decode()
            raise BrokenError(
                _locate(before, len(before)),
                f"This is not UTF-8: byte 0x{raw[error.start]:02x}.",
                "Save the file as UTF-8.",
            ) from None
    else:
        text = raw
    text = text.removeprefix("\ufeff")
    found = _NOT_PRINTABLE.search(text)
    if found:
        raise BrokenError(
            _locate(text, found.start()),
            f"The character U+{ord(found[0]):04X} is not allowed in YAML.",
            "Remove it; an editor that shows control characters finds it.",
        )
    return text


def _locate(text: str, offset: int) -> Mark:
    return Mark(text.count("\n", 0, offset) + 1, offset - (text.rfind("\n", 0, offset) + 1) + 1)


class _Reader:
    """Makes content of events, and notes in ``source`` where every part of it stands."""

    def __init__(self, events: Events, source: YamlSource) -> None:
        self._stream = events
        self._events = iter(events)
        self._source = source

    def read_document(self) -> None:
        first = next(self._events, None)
        if first is None:
            self._source.values[()] = Mark(1, 1)
            return
        self._source.content = self._read(first, ())
        next(self._events, None)  # nothing follows, or what is broken

    def _read(self, event: Any, loc: Loc) -> Any:
        """Return the node that begins with ``event`` as plain content, nothing shared."""
        self._source.values[loc] = Mark.of(event)
        if isinstance(event, yaml.ScalarEvent):
            return self._read_scalar(event)[0]
        self._check_tag(event)
        if isinstance(event, yaml.MappingStartEvent):
            return self._read_mapping(loc)
        items: list[Any] = []
        while not isinstance(item := next(self._events), yaml.SequenceEndEvent):
            items.append(self._read(item, (*loc, len(items))))
        return items

    def _read_mapping(self, loc: Loc) -> dict[str, Any]:
        content: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                written = Mark.of(self._stream.written)
                self._note(written, "A key must be a word, not a list or a mapping.")
                self._skip(event, loc)
                self._skip(next(self._events), loc)
                continue
            _, key = self._read_scalar(event)
            mark, place = Mark.of(event), (*loc, key)
            if key in content:
                first = self._source.keys[place]
                message = f"The key {quote(key)} is here twice; the first is on line {first.line}."
                self._note(mark, message, "Remove one.", name_place(place))
                self._skip(next(self._events), place)
                continue
            self._source.keys[place] = mark
            content[key] = self._read(next(self._events), place)
        return content

    def _skip(self, event: Any, loc: Loc) -> None:
        """Read a node that is not part of the content, for what is wrong with it."""
        kept, self._source = self._source, YamlSource(problems=self._source.problems)
        self._read(event, loc)
        self._source = kept

    def _read_scalar(self, event: Any) -> tuple[Any, str]:
        """Return a scalar's value, and the text it was written as."""
        text: str = event.value
        if event.tag not in _STRING_TAGS:
            self._check_tag(event)
        found = _CONTROL.search(text)
        if found:
            what = "a line break" if found[0] == "\n" else f"the control character U+{ord(found[0]):04X}"
            self._note(Mark.of(event), f"The value holds {what}.", "Write it on one line.")
            text = _CONTROL.sub("", text)
        is_plain = event.style in {None, ""} and event.tag is None
        return _resolve(text) if is_plain else text, text

    def _check_tag(self, event: Any) -> None:
        if event.tag is not None and event.tag != "!":
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._note(Mark.of(event), f"The tag {quote(tag)} is not understood.", "Remove it.")

    def _note(self, mark: Mark, message: str, hint: str | None = None, where: str = "") -> None:
        self._source.problems.append(Problem(mark.line, mark.column, where, message, hint))


def _resolve(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _WHOLE_NUMBER.fullmatch(text) else text
