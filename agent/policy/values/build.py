"""Makes the values of a policy out of plain content: strictly, the first fault ends it.

Every fault of a file, and where it stands, is found by ``agent.policy.reading``. What passed that is built
here, by the same annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from agent.core.errors import InvalidValueError
from agent.core.quoting import quote
from agent.policy.values.annotations import Between, Check, Read, find_key

T = TypeVar("T")


def build_section(section: type[T], content: object) -> T:
    """Return the ``section``, a dataclass, that ``content`` says: dicts, lists and scalars.

    Raises InvalidValueError, its message beginning with the key that is wrong.
    """
    if type(content) is not dict:
        raise InvalidValueError(f"{quote(content)} is not a mapping.")
    known = list_fields(section)
    for key in content:
        if key not in known:
            raise InvalidValueError(f"The key {quote(str(key))} is not known.")
    values = {}
    for key, (field, hint) in known.items():
        if key in content:
            try:
                values[field.name] = _build(hint, content[key])
            except InvalidValueError as error:
                raise InvalidValueError(f"{key}: {error.message}", error.hint) from None
        elif field.default is MISSING and field.default_factory is MISSING:
            raise InvalidValueError(f"The key {key!r} is missing.")
    return section(**values)


def list_fields(section: Any) -> Mapping[str, tuple[Field[Any], Any]]:
    """Return the fields of a section with their annotations, by the key each is written as."""
    return _list_fields(section)


@lru_cache(maxsize=64)
def _list_fields(section: Any) -> Mapping[str, tuple[Field[Any], Any]]:
    hints = get_type_hints(section, include_extras=True)
    return {find_key(field): (field, hints[field.name]) for field in fields(section)}


def _build(hint: Any, content: Any) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _build_annotated(inner[0], inner[1:], content)
    if origin in {Union, UnionType}:
        # None is a key that was left out.
        (hint,) = (one for one in inner if one is not type(None))
        return _build(hint, content)
    if origin is Literal:
        return _choose(content, inner)
    if origin is tuple:
        return tuple(_build(inner[0], item) for item in _hold_to(list, content, "a list"))
    if origin is Mapping:
        pairs = _hold_to(dict, content, "a mapping").items()
        return {_build(inner[0], key): _build(inner[1], value) for key, value in pairs}
    if isinstance(hint, type) and is_dataclass(hint):
        return build_section(hint, content)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(_choose(content, [member.value for member in hint]))
    return _hold_to(hint, content, _NAMES[hint])


_NAMES: Mapping[Any, str] = {str: "a valid string", bool: "a valid boolean", int: "a valid integer"}


def _build_annotated(hint: Any, notes: tuple[Any, ...], content: Any) -> Any:
    read = next((note for note in notes if isinstance(note, Read)), None)
    value: Any = _build(hint, content) if read is None else read.make(content)
    for note in notes:
        if isinstance(note, Between):
            _check_between(note, value)
        elif isinstance(note, Check):
            value = note.check(value)
    return value


def _check_between(bounds: Between, value: int) -> None:
    if value < bounds.low:
        raise InvalidValueError(f"Input should be greater than or equal to {bounds.low}")
    if value > bounds.high:
        raise InvalidValueError(f"Input should be less than or equal to {bounds.high}")


def _choose(content: Any, choices: Any) -> Any:
    """Return that one of ``choices`` which ``content`` is."""
    for choice in choices:
        if content == choice:
            return choice
    *most, last = map(repr, choices)
    words = f"{', '.join(most)} or {last}" if most else last
    raise InvalidValueError(f"Input should be {words}")


def _hold_to(kind: type[T], content: object, what: str) -> T:
    if type(content) is not kind:
        raise InvalidValueError(f"Input should be {what}")
    return content
