"""EC2's own reading of filter values, where moto's differs: ``*`` and ``?`` are wildcards, nothing else is.

Source: the EC2 API reference, ``Filter``: wildcards may be used in values, and a backslash escapes them. moto
takes ``[`` for the beginning of a set, and a backslash for itself.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from moto.ec2 import utils

_MATCH_OTHERS = utils.is_filter_matching


@cache
def _compile(value: str) -> re.Pattern[str]:
    pieces = []
    characters = iter(value)
    for character in characters:
        if character == "\\":
            pieces.append(re.escape(next(characters, character)))
        else:
            pieces.append({"*": ".*", "?": "."}.get(character, re.escape(character)))
    return re.compile("".join(pieces), re.DOTALL)


def is_matching(text: str, values: list[str]) -> bool:
    """Return whether one of a filter's values means the text."""
    return any(_compile(value).fullmatch(text) for value in values)


def _match(resource: Any, name: str, wanted: Any) -> bool:
    found = resource.get_filter_value(name)
    if not isinstance(found, str) or wanted is None:
        return bool(_MATCH_OTHERS(resource, name, wanted))
    return is_matching(found, wanted if isinstance(wanted, list) else [wanted])


def install_wildcards() -> None:
    """Have moto's EC2 read its filters so."""
    vars(utils)["is_filter_matching"] = _match
