"""How a sentence holds what others wrote: in YAML's words, printable, short, marked where it is cut."""

from __future__ import annotations

import json
import re

_PLAIN = re.compile(r"[A-Za-z0-9_./+-](?:[A-Za-z0-9_./=@%+:-]*[A-Za-z0-9_./=@%+-])?", re.ASCII)
_LIST_LIMIT = 3


def quote(value: object, limit: int = 60) -> str:
    """Return the value as a sentence quotes it: ``'noatime'``, ``true``, ``{path: /data/a}``, ``[a, b, …]``.

    Of a text at most ``limit`` characters are shown; of a list or a mapping its first items, one level deep.
    """
    if isinstance(value, str):
        return repr(value if len(value) <= limit else f"{value[:limit]}…")
    return write_yaml(value, limit)


def make_printable(text: str) -> str:
    """Return ``text`` with a question mark for every character that cannot be printed: escapes, raw bytes.

    Names of mounts, devices and programs come from whoever made them, and need not even be UTF-8.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def make_lines_printable(text: str) -> str:
    """Return the same of a text of several lines: others answer in words of their own."""
    return "\n".join(make_printable(line) for line in text.split("\n"))


def fit(text: str, limit: int = 200) -> str:
    """Return somebody else's words as a sentence can hold them: printable, on one line, marked where cut."""
    printable = "".join(character if character.isprintable() else " " for character in text[: limit + 1])
    return printable if len(text) <= limit else f"{printable[:limit]}…"


def write_yaml(value: object, limit: int = 60, items: int = _LIST_LIMIT) -> str:
    """Return the value as one would write it in YAML on one line; what is large is abbreviated with ``…``."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        pairs = [f"{_write_word(key, limit)}: {_write_inner(inner)}" for key, inner in value.items()]
        return f"{{{', '.join(_shorten(pairs, items))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_shorten([_write_inner(inner) for inner in value], items))}]"
    if isinstance(value, str):
        return _write_word(value, limit)
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def _shorten(written: list[str], limit: int) -> list[str]:
    return written if len(written) <= limit else [*written[:limit], "…"]


def _write_inner(value: object) -> str:
    if isinstance(value, dict):
        return "{…}" if value else "{}"
    if isinstance(value, (list, tuple)):
        return "[…]" if value else "[]"
    return write_yaml(value, 40)


def _write_word(value: object, limit: int) -> str:
    """Return a word plain where YAML takes it for the same text, in quotes elsewhere."""
    text = str(value)
    text = text if len(text) <= limit else f"{text[:limit]}…"
    if text.lower() in {"true", "false", "null", ""} or re.fullmatch(r"[-+]?[0-9]+", text):
        return json.dumps(text)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=not text.isprintable())
