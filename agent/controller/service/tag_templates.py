"""Fills in the templates of tags: ``{{ .PVCNamespace | field "-" 2 | toUpper }}``.

The part of Go's text/template that values of tags are made with: fields, texts, whole numbers, the functions
below, parentheses and pipes. What a field says is put in as it is, and never read as a template itself.
Source: docs/tagging.md and pkg/util/template of AWS's driver.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeAlias

from msgspec import Struct

from agent.core.errors import InvalidValueError
from agent.core.quoting import quote

Value: TypeAlias = str | int | bool

TEMPLATE_LIMIT = 1024
"""Characters; no value of a tag has more than 256."""

_DEPTH_LIMIT = 20

_ACTION = re.compile(r"(\s*)\{\{(- )?(.*?)( -)?\}\}(\s*)", re.DOTALL)
_TOKEN = re.compile(
    r"\s*(?:(?P<text>\"(?:[^\"\\\n]|\\.)*\"|`[^`]*`)|(?P<number>-?[0-9]{1,9})|\.(?P<field>[A-Za-z]+)"
    r"|(?P<word>[A-Za-z]+)|(?P<mark>[()|]))",
    re.ASCII,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def _take_field(delimiter: str, place: int, text: str) -> str:
    words = text.split(delimiter) if delimiter else list(text)
    if not 0 <= place < len(words):
        raise ValueError(f"{quote(text)} has no field {place} between {quote(delimiter)}")
    return words[place]


def _cut(start: int, end: int, text: str) -> str:
    if start < 0:
        start = 0
    elif end < 0 or end > len(text):
        end = len(text)
    if not start <= end <= len(text):
        raise ValueError(f"{quote(text)} has nothing from {start} to {end}")
    return text[start:end]


class _Function(Struct, frozen=True):
    takes: tuple[type[str | int], ...]
    do: Callable[..., Value]


_FUNCTIONS = {
    "contains": _Function((str, str), lambda part, text: part in text),
    "field": _Function((str, int, str), _take_field),
    "index": _Function((str, str), lambda part, text: text.find(part)),
    "lastIndex": _Function((str, str), lambda part, text: text.rfind(part)),
    "substring": _Function((int, int, str), _cut),
    "toLower": _Function((str,), str.lower),
    "toUpper": _Function((str,), str.upper),
}


def fill_template(template: str, fields: Mapping[str, str]) -> str:
    """Return the template with its actions replaced by what they come to.

    Raises InvalidValueError where it cannot be read, or names a field that is not known.
    """
    if len(template) > TEMPLATE_LIMIT:
        raise InvalidValueError(
            f"The template {quote(template)} has more than {TEMPLATE_LIMIT} characters.", hint="Shorten it."
        )
    made: list[str] = []
    end = 0
    for action in _ACTION.finditer(template):
        made.append(_require_plain(template[end : action.start()], template))
        before, trim_left, inside, trim_right, after = action.groups()
        said = "" if inside.strip().startswith("/*") else _write(_Reader(inside, fields, template).read())
        made += ["" if trim_left else before, said, "" if trim_right else after]
        end = action.end()
    made.append(_require_plain(template[end:], template))
    return "".join(made)


def _require_plain(text: str, template: str) -> str:
    if "{{" in text:
        _refuse(template, "an action is not ended by }}")
    return text


def _write(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse(template: str, why: str) -> NoReturn:
    raise InvalidValueError(
        f"The template {quote(template, 120)} cannot be filled in: {why}.",
        hint=f"Its functions are {', '.join(_FUNCTIONS)}.",
    )


class _Reader:
    """Reads one action from left to right."""

    def __init__(self, text: str, fields: Mapping[str, str], template: str) -> None:
        self._fields = fields
        self._template = template
        self._tokens = list(self._split(text))
        self._place = 0
        self._depth = 0

    def _split(self, text: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        place, end = 0, len(text.rstrip())
        while place < end:
            token = _TOKEN.match(text, place)
            if token is None or token.lastgroup is None:
                _refuse(self._template, f"{quote(text[place:end].strip())} is not understood")
            found.append((token.lastgroup, token[token.lastgroup]))
            place = token.end()
        return found

    def read(self) -> Value:
        """Return what the action comes to."""
        value = self._read_pipe()
        if self._place < len(self._tokens):
            _refuse(self._template, f"{quote(self._tokens[self._place][1])} is one word too many")
        return value

    def _read_pipe(self) -> Value:
        value = self._read_command(())
        while self._peek() == ("mark", "|"):
            self._place += 1
            value = self._read_command((value,))
        return value

    def _read_command(self, piped: tuple[Value, ...]) -> Value:
        kind, word = self._peek()
        if kind == "word" and word not in {"true", "false"}:
            self._place += 1
            values: list[Value] = []
            while self._peek()[0] in {"text", "number", "field", "word"} or self._peek() == ("mark", "("):
                values.append(self._read_value())
            return self._call(word, (*values, *piped))
        if piped:
            _refuse(self._template, "only a function can come after |")
        return self._read_value()

    def _read_value(self) -> Value:
        kind, word = self._peek()
        self._place += 1
        if kind == "text":
            return word[1:-1] if word[0] == "`" else _ESCAPE.sub(r"\1", word[1:-1])
        if kind == "number":
            return int(word)
        if kind == "field":
            return self._find_field(word)
        if word in {"true", "false"}:
            return word == "true"
        if (kind, word) == ("mark", "("):
            self._depth += 1
            if self._depth > _DEPTH_LIMIT:
                _refuse(self._template, "it has too many parentheses")
            value = self._read_pipe()
            if self._peek() != ("mark", ")"):
                _refuse(self._template, "a parenthesis is not closed")
            self._place += 1
            return value
        if kind == "word":
            return self._call(word, ())
        _refuse(self._template, "a value is missing")

    def _find_field(self, name: str) -> str:
        if name not in self._fields:
            known = ", ".join(f".{field}" for field in self._fields) or "none, since no metadata was sent"
            _refuse(self._template, f".{name} is not known here; known are {known}")
        return self._fields[name]

    def _call(self, name: str, values: tuple[Value, ...]) -> Value:
        function = _FUNCTIONS.get(name)
        if function is None:
            _refuse(self._template, f"there is no function {quote(name)}")
        kinds = tuple(type(value) for value in values)
        if kinds != function.takes:
            takes = " and ".join("a text" if kind is str else "a number" for kind in function.takes)
            _refuse(self._template, f"{name} takes {takes}")
        try:
            return function.do(*values)
        except ValueError as error:
            _refuse(self._template, str(error))

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._place] if self._place < len(self._tokens) else ("end", "")
