"""pydantic's models of the policy's sections, made of the dataclasses that hold its values.

They find what is wrong, all of it and where; what is sound is built by ``agent.policy.values.build``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, is_dataclass
from functools import lru_cache
from types import GenericAlias, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pydantic
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    PlainValidator,
    StrictBool,
    StrictInt,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from agent.core.errors import InvalidValueError
from agent.policy.values.annotations import Between, Check, Read, Shown
from agent.policy.values.build import list_fields

CUSTOM_ERROR = "refused"
"""The type of pydantic's errors that hold one of ours; their context has ``message`` and ``hint``."""


class SectionModel(BaseModel):
    """A mapping of the policy file whose keys are known. Built when something is first held to it."""

    model_config = ConfigDict(
        extra="forbid",
        defer_build=True,
        validate_by_alias=True,
        validate_by_name=False,
        allow_inf_nan=False,
    )


def make_model(section: Any) -> type[BaseModel]:
    """Return the model of a section, a dataclass; the same one every time."""
    return _make_model(section)


@lru_cache(maxsize=64)
def _make_model(section: Any) -> type[BaseModel]:
    members: dict[str, Any] = {
        field.name: (_translate(hint), _describe(key, field))
        for key, (field, hint) in list_fields(section).items()
    }
    model: type[BaseModel] = pydantic.create_model(
        section.__name__,
        __base__=SectionModel,
        __doc__=section.__doc__,
        __module__=section.__module__,
        **members,
    )
    return model


def find_sections(section: type[Any]) -> Iterator[type[Any]]:
    """Yield the sections within a section, however deep."""
    for _, hint in list_fields(section).values():
        yield from _find_within(hint)


def _find_within(hint: Any) -> Iterator[type[Any]]:
    inner = get_args(hint)
    if get_origin(hint) is Annotated:
        # What is read as one value may be a dataclass, and is no section.
        inner = () if _is_read(inner[1:]) else inner[:1]
    elif isinstance(hint, type) and is_dataclass(hint):
        yield hint
        yield from find_sections(hint)
    for each in inner:
        yield from _find_within(each)


def _is_read(notes: tuple[Any, ...]) -> bool:
    return any(isinstance(note, Read) for note in notes)


def _describe(key: str, field: Field[Any]) -> Any:
    """Return what pydantic calls a field."""
    words: dict[str, Any] = {} if key == field.name else {"alias": key}
    if "default" in field.metadata:
        words["json_schema_extra"] = {"default": field.metadata["default"]}
    if field.default_factory is not MISSING:
        return pydantic.Field(default_factory=field.default_factory, **words)
    return (
        pydantic.Field(**words)
        if field.default is MISSING
        else pydantic.Field(default=field.default, **words)
    )


def _translate(hint: Any) -> Any:
    """Return an annotation of the policy's in pydantic's words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        base = inner[0] if _is_read(inner[1:]) else _translate(inner[0])
        notes = tuple(map(_translate_note, inner[1:]))
        parts: Any = (base, *notes)
        return Annotated[parts]
    if origin in {Union, UnionType}:
        return Union[tuple(map(_translate, inner))]  # noqa: UP007 -- of as many as there are
    if origin is tuple:
        item: Any = _translate(inner[0])
        return tuple[item, ...]
    if origin is Mapping:
        return GenericAlias(Mapping, tuple(map(_translate, inner)))
    if is_dataclass(hint) and isinstance(hint, type):
        return make_model(hint)
    return {bool: StrictBool, int: StrictInt}.get(hint, hint)


def _translate_note(note: Any) -> Any:
    if isinstance(note, Read):
        return PlainValidator(_telling(note.make))
    if isinstance(note, Check):
        return AfterValidator(_telling(note.check))
    if isinstance(note, Between):
        return pydantic.Field(ge=note.low, le=note.high)
    return WithJsonSchema(dict(note.schema)) if isinstance(note, Shown) else note


def _telling(function: Callable[[Any], object]) -> Callable[[Any], object]:
    """Have what a function refuses told to pydantic, which keeps the place of it."""

    def tell(value: Any) -> object:
        try:
            return function(value)
        except InvalidValueError as error:
            context = {"message": error.message, "hint": error.hint}
            raise PydanticCustomError(CUSTOM_ERROR, "{message}", context) from None

    return tell
