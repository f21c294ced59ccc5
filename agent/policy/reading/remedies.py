"""What to write in the place of a value of the wrong kind: said in YAML, with the words that were written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from agent.core.quoting import write_yaml
from agent.core.suggestions import MANY, list_known, suggest_word
from agent.policy.yaml.problems import Loc

YAML_NAMES = {"model_type": "a mapping", "dict_type": "a mapping", "mapping_type": "a mapping"} | {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "tuple_type": "a list",
    "list_type": "a list",
}
"""pydantic's types of errors about a value's type, and what belongs there."""

_WORDS_FOR_TRUE = {"yes", "on", "y", "true", "1"}
_WORDS_FOR_FALSE = {"no", "off", "n", "false", "0"}


def suggest_value(model: type[BaseModel], loc: Loc, wanted: str, value: Any) -> str | None:
    """Return what to write where ``wanted``, one of ``YAML_NAMES``, belongs and ``value`` was written."""
    key = next((part for part in reversed(loc) if isinstance(part, str)), "")
    field = find_field(model, loc)
    inner = model if not loc else next(_find_models(field.annotation), None) if field else None
    if wanted == "a list":
        return _suggest_list(key, value, has_keys=inner is not None)
    if wanted == "a mapping":
        if inner is None:
            return _suggest_pairs(key, value)
        if field is not None and get_origin(field.annotation) is Mapping:
            return f"Write each under its name: {key}: {{fast: {{{next(iter(inner.model_fields))}: …}}}}"
        return _suggest_mapping(key, inner, value)
    if wanted == "true or false":
        return _suggest_flag(value)
    if wanted == "a whole number":
        digits = value.replace(",", "").replace("_", "").strip() if isinstance(value, str) else ""
        is_number = re.fullmatch(r"[0-9]{1,18}", digits, re.ASCII)
        return f"Write it without quotes or marks: {digits}" if is_number else "Write digits, as in 3000."
    if isinstance(value, (dict, list)):
        return f"Write one word: {key or 'key'}: …"
    return f'Put it in quotes: "{write_yaml(value)}"'


def suggest_missing(model: type[BaseModel], loc: Loc) -> str | None:
    """Return what to add, where a key that has to be there takes one of few words."""
    field = find_field(model, loc)
    choices = [] if field is None else _list_choices(field.annotation)
    return f"Add {loc[-1]}: {' or '.join(choices)}" if choices else None


def _list_choices(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [str(member.value) for member in annotation]
    return [str(choice) for choice in get_args(annotation)] if get_origin(annotation) is Literal else []


def _suggest_list(key: str, value: Any, *, has_keys: bool) -> str:
    if has_keys:
        words = list(value) if isinstance(value, dict) else [value]
        name = write_yaml(words[0]) if words and isinstance(words[0], str) else "…"
        return f"Its items begin with a dash: - name: {name}, and the item's other keys below name."
    if isinstance(value, dict):
        words = [str(inner) if str(name).isdigit() else str(name) for name, inner in value.items()]
    elif isinstance(value, str):
        # Options of mkfs have commas inside.
        separator = r"\s+" if value.startswith("-") else r"[,\s]+"
        words = [word for word in re.split(separator, value) if word]
    else:
        words = [write_yaml(value)]
    return f"Write it as a list: {key}: {write_yaml(words, items=MANY)}"


def _suggest_mapping(key: str, inner: type[BaseModel], value: Any) -> str:
    fields = {field.alias or name: field for name, field in inner.model_fields.items()}
    first = next((name for name, field in fields.items() if field.is_required()), next(iter(fields)))
    before = f"{key}: " if key else ""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
        return f"Write it without the dash: {before}{write_yaml(value[0])}"
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        fitting = next((name for name in fields if _fits(inner, name, value)), None)
        if fitting is not None:
            return f"Write it as in {before}{{{fitting}: {write_yaml(value)}}}"
    if value is True and not any(field.is_required() for field in fields.values()):
        return f"Write {before}{{}}, or with keys: {before}{{{first}: …}}"
    return f"Write it as in {before}{{{first}: …}}"


def _suggest_pairs(key: str, value: Any) -> str:
    """Say how keys and values are written where any key may be, as in tags."""
    if isinstance(value, list) and value and all(isinstance(one, dict) and "Key" in one for one in value):
        value = {str(one["Key"]): one.get("Value", "") for one in value}
    elif isinstance(value, str) and re.fullmatch(r"[^=:,\s]+[=:][^=:,\s]*", value):
        name, _, said = re.split(r"([=:])", value, maxsplit=1)
        value = {name: said}
    else:
        value = {"key": "value"}
    return f"Write it as in {key}: {write_yaml(value)}"


def _suggest_flag(value: Any) -> str:
    word = str(value).lower() if isinstance(value, (str, int)) else ""
    if word in _WORDS_FOR_TRUE:
        return "Write true."
    return "Write false." if word in _WORDS_FOR_FALSE else "Write true or false."


def _fits(inner: type[BaseModel], name: str, value: Any) -> bool:
    """Tell whether the value would do as that key of a section."""
    try:
        inner.model_validate({name: value})
    except ValidationError as error:
        return not any(detail["loc"][:1] == (name,) for detail in error.errors(include_url=False))
    return True


def suggest_choice(value: Any, choices: list[str]) -> str | None:
    """Return which of several words was meant, or which there are."""
    if isinstance(value, bool):
        meant = {True: "if-blank", False: "never"}[value]
        return f"Did you mean {meant}?" if meant in choices else list_known(choices)
    if isinstance(value, str) and value in choices:
        return f"Write it without quotes: {value}"
    return suggest_word(str(value), choices)


def find_field(model: type[BaseModel], loc: Loc) -> FieldInfo | None:
    """Return the field at a place of the model; items of a list are the list's."""
    current: type[BaseModel] | None = model
    field: FieldInfo | None = None
    for part in loc:
        if isinstance(part, int):
            continue
        if current is None:
            return None
        field = {one.alias or name: one for name, one in current.model_fields.items()}.get(part)
        current = None if field is None else next(_find_models(field.annotation), None)
    return field


def find_keys(model: type[BaseModel], loc: Loc) -> list[str]:
    """Return the keys known at a place of the model."""
    field = find_field(model, loc)
    at = next(_find_models(field.annotation), None) if field is not None else None if loc else model
    return [] if at is None else [one.alias or name for name, one in at.model_fields.items()]


def _find_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _find_models(inner)
