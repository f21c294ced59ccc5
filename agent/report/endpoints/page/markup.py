"""HTML made of elements. Whatever is not made here is text, and is escaped; hence no value can be markup."""

from __future__ import annotations

import re
from html import escape

_VOID = frozenset({"br", "link", "meta"})
_UNFIT = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]"
)
"""What HTML does not allow, and what would turn round the text that comes after it."""


class Element(str):
    """Markup, which is not escaped."""

    __slots__ = ()


def element(name: str, *parts: str | None, **attributes: object) -> Element:
    """Return an element. ``class_`` and the like lose their last underscore, other underscores are hyphens.

    An attribute that is None or False is left out, and one that is True has no value.
    """
    said = "".join(
        f" {_spell(key)}" if value is True else f' {_spell(key)}="{_clean(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    end = "" if name in _VOID else f"</{name}>"
    return Element(f"<{name}{said}>{join(*parts)}{end}")


def join(*parts: str | None, between: str = "") -> Element:
    """Return the parts one after the other; None and what is empty are left out."""
    return Element(
        between.join(part if isinstance(part, Element) else _clean(part) for part in parts if part)
    )


def _spell(key: str) -> str:
    return key.removesuffix("_").replace("_", "-")


def _clean(text: str, *, quote: bool = False) -> str:
    return escape(_UNFIT.sub("\ufffd", text), quote=quote)
