"""The policy file's JSON Schema, for editors."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from itertools import pairwise
from typing import Any

from agent.policy.policy import Policy
from agent.policy.reading.models import find_sections, make_model
from agent.policy.values.annotations import find_key


def policy_schema() -> dict[str, Any]:
    """Return the JSON Schema of the policy file, for editors; ``check_policy`` knows more than it can say."""
    schema = make_model(Policy).model_json_schema(by_alias=True, mode="validation")
    _explain_keys(Policy, schema["properties"])
    for section in find_sections(Policy):
        _explain_keys(section, schema["$defs"][section.__name__]["properties"])
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_tidy_schema(schema)}


def _explain_keys(section: type[Any], properties: dict[str, Any]) -> None:
    """Give each key of a section its attribute's docstring, which only the source has."""
    keys = {field.name: find_key(field) for field in fields(section)}
    for base in section.mro()[:-1]:
        (definition,) = ast.parse(inspect.getsource(base)).body
        statements = definition.body if isinstance(definition, ast.ClassDef) else []
        for attribute, text in pairwise(statements):
            if not isinstance(attribute, ast.AnnAssign) or not isinstance(attribute.target, ast.Name):
                continue
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                properties[keys[attribute.target.id]]["description"] = inspect.cleandoc(str(text.value.value))


def _tidy_schema(part: Any) -> Any:
    """Show keys as they are written: none takes null, and a section's default is to leave it out."""
    if isinstance(part, list):
        return [_tidy_schema(item) for item in part]
    if not isinstance(part, dict):
        return part
    tidy = {key: _tidy_schema(value) for key, value in part.items()}
    if isinstance(tidy.get("default", ""), (dict, type(None))):
        del tidy["default"]
    choices = tidy.get("anyOf")
    if isinstance(choices, list) and {"type": "null"} in choices:
        (choice,) = (choice for choice in choices if choice != {"type": "null"})
        del tidy["anyOf"]
        return {**choice, **tidy}
    return tidy
