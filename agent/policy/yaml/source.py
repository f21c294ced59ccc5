"""A YAML file's content with the place of every key and value, read so that no file can hurt or delay.

Syntax only: what the keys mean is not known here. Nothing is ever constructed but dicts, lists, strings,
whole numbers, booleans and None. How the text becomes a tree is in ``agent.policy.yaml.yaml_tree``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from agent.core.quoting import quote
from agent.policy.yaml.problems import Loc, Problem, name_place
from agent.policy.yaml.yaml_tree import FAST_LOADER, BrokenError, List, Mark, Scalar, YamlNode, compose

MAX_BYTES = 1 << 20

_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass
class YamlSource:
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
        text = _decode(raw)
        node, source.problems = compose(text, loader)
        source.content = _expand(node, (), source)
    except BrokenError as error:
        return YamlSource(problems=[error.problem], is_readable=False)
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


def _expand(node: YamlNode, loc: Loc, source: YamlSource) -> Any:
    """Return a node as plain content, nothing shared, and note where every part of it stands."""
    source.values[loc] = node.mark
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, List):
        return [_expand(item, (*loc, index), source) for index, item in enumerate(node.items)]
    content: dict[str, Any] = {}
    for key, value in node.items:
        place = (*loc, key.text)
        if key.text in content:
            first = source.keys[place]
            source.problems.append(
                Problem(
                    key.mark.line,
                    key.mark.column,
                    name_place(place),
                    f"The key {quote(key.text)} is here twice; the first is on line {first.line}.",
                    "Remove one.",
                )
            )
            continue
        source.keys[place] = key.mark
        content[key.text] = _expand(value, place, source)
    return content
