"""A JSON object of a note, taken apart: everything is there and of its kind, or the note is none."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from agent.core.model import VolumeId


class Note(Protocol):
    """A frozen struct about one volume, of values that JSON has."""

    __struct_fields__: ClassVar[tuple[str, ...]]

    @property
    def volume_id(self) -> VolumeId:
        """The volume that it is about."""


class Fields:
    """A JSON object being taken apart; ValueError where it is not what was written."""

    def __init__(self, value: object, names: frozenset[str]) -> None:
        if not isinstance(value, dict) or set(value) != names:
            raise ValueError("its fields are not those of a note")
        self._value: dict[str, Any] = value

    def is_none(self, name: str) -> bool:
        """Whether the field is there and holds nothing."""
        return self._value[name] is None

    def take_text(self, name: str) -> str:
        """Return a text."""
        return check_text(self._value[name])

    def take_number(self, name: str) -> int:
        """Return a whole number from 0 on."""
        return check_number(self._value[name])

    def take_flag(self, name: str) -> bool:
        """Return whether it is so."""
        value = self._value[name]
        if not isinstance(value, bool):
            raise ValueError(f"{name} is neither true nor false")  # noqa: TRY004
        return value

    def take_object(self, name: str) -> object:
        """Return a value as it is."""
        return self._value[name]

    def take_list(self, name: str) -> list[Any]:
        """Return a list of values as they are."""
        value = self._value[name]
        if not isinstance(value, list):
            raise ValueError(f"{name} is not a list")  # noqa: TRY004 (all that is wrong with a note is one error)
        return value


def check_text(value: object) -> str:
    """Return a text as it is; ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError("a text is none")  # noqa: TRY004
    return value


def check_number(value: object) -> int:
    """Return a whole number from 0 on as it is; ValueError for anything else."""
    # True is an int to Python, and not to anyone who reads the file.
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("a number is none")
    return value
