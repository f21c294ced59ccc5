"""What the annotation of a policy's field says of it beside its type: how it is read, checked and shown.

Plain values, so that what holds a policy needs no library: ``build`` makes values by them, and
``agent.policy.reading.models`` what finds every fault of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field
from typing import Any

from msgspec import Struct


class Read(Struct, frozen=True):
    """The value is made of what was written by ``make``, which raises InvalidValueError."""

    make: Callable[[Any], object]


class Check(Struct, frozen=True):
    """The value, once it is one, is held to more by ``check``: returns it, or raises InvalidValueError."""

    check: Callable[[Any], Any]


class Between(Struct, frozen=True):
    """The number is no less than ``low`` and no more than ``high``."""

    low: int
    high: int


class Shown(Struct, frozen=True, eq=False):
    """The JSON Schema of what is written, for editors: ``"500GiB"`` is not what is kept."""

    schema: Mapping[str, Any]


def written(key: str | None = None, *, default: str | None = None) -> Mapping[str, str]:
    """Return the metadata of a field that is written as ``key``, or whose default is written so."""
    return {name: word for name, word in (("key", key), ("default", default)) if word is not None}


def find_key(field: Field[Any]) -> str:
    """Return the key by which a field is written."""
    key: str = field.metadata.get("key", field.name)
    return key
