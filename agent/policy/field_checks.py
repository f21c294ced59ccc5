"""Checks a piece of the policy against its model, and says everything that is wrong with it at once.

pydantic stops at the first layer: what is wrong hides what contradicts it. So the wrong parts are pruned
and the rest is checked again, until a sound remainder is left that contradictions can be looked for in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from agent.core.quoting import quote
from agent.policy.entry_checks import Conflict
from agent.policy.values.fields import CUSTOM_ERROR
from agent.policy.yaml.problems import MAX_PROBLEMS, Loc
from agent.policy.yaml.remedies import (
    YAML_NAMES,
    find_keys,
    suggest_choice,
    suggest_missing,
    suggest_value,
    suggest_word,
)

M = TypeVar("M", bound=BaseModel)

_MAX_ROUNDS = 12


class ValidatedPiece(Generic[M]):
    """The sound remainder of a piece, None where there is none, with what was wrong and what was pruned."""

    def __init__(self, value: M | None, findings: list[Conflict], pruned: list[Loc]) -> None:
        self.value = value
        self.findings = findings
        self.pruned = pruned

    def is_sure(self, finding: Conflict) -> bool:
        """Tell whether a contradiction rests on nothing that was pruned."""
        places = (finding.loc, *finding.rests_on)
        return not any(_overlaps(place, gone) for place in places if place for gone in self.pruned)


def check_piece(model: type[M], content: Any, *, whole: type[BaseModel] | None = None) -> ValidatedPiece[M]:
    """Check ``content`` (plain dicts, lists and scalars) against ``model``.

    ``whole``: what ``model`` is a part of, whose keys are suggested for one that is not known.
    """
    remainder = _copy(content)
    # No key takes null: a key whose value was left out or commented out is a slip, not a wish.
    pruned = list(_drop_empty(remainder, ())) if isinstance(remainder, dict) else []
    findings = [_name_no_value(loc, "one") for loc in pruned]
    for _ in range(_MAX_ROUNDS):
        try:
            return ValidatedPiece(model.model_validate(remainder), findings, pruned)
        except ValidationError as error:
            details = error.errors(include_url=False)
        fresh = [detail for detail in details if not _is_consequence(detail, pruned)]
        findings += [_translate(whole or model, detail) for detail in fresh[: MAX_PROBLEMS - len(findings)]]
        gone = [_prune(remainder, detail) for detail in details]
        if () in gone:
            return ValidatedPiece(None, findings, [*pruned, ()])
        pruned += [loc for loc in gone if loc is not None]
    return ValidatedPiece(None, findings, [*pruned, ()])


def _drop_empty(content: Any, loc: Loc) -> Iterator[Loc]:
    """Remove the keys whose value is null, or a list that holds one, and yield their places."""
    items = list(content.items() if isinstance(content, dict) else enumerate(content))
    for key, value in items:
        place = (*loc, key)
        if isinstance(content, dict) and (value is None or (isinstance(value, list) and None in value)):
            del content[key]
            yield place
        elif isinstance(value, (dict, list)):
            yield from _drop_empty(value, place)


def _copy(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _copy(value) for key, value in content.items()}
    return [_copy(item) for item in content] if isinstance(content, list) else content


def _overlaps(one: Loc, other: Loc) -> bool:
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _is_consequence(detail: ErrorDetails, pruned: list[Loc]) -> bool:
    """Tell whether something is missing only because what was there was pruned."""
    return detail["type"] == "missing" and tuple(detail["loc"]) in pruned


def _prune(content: Any, detail: ErrorDetails) -> Loc | None:
    """Remove the smallest key that holds the error; return its place, () for all, None if it is gone."""
    loc = tuple(detail["loc"])
    if detail["type"] == "missing":
        loc = loc[:-1]
    holder: tuple[dict[str, Any], int] | None = None
    node = content
    for length, part in enumerate(loc):
        if isinstance(node, dict) and part in node:
            holder = node, length
            node = node[part]
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif holder is not None and isinstance(node, dict) and not _is_marker(part):
            return None
        else:
            break
    if holder is None:
        return ()
    mapping, length = holder
    del mapping[str(loc[length])]
    return loc[: length + 1]


def _is_marker(part: str | int) -> bool:
    return part == "[key]"


def _translate(model: type[BaseModel], detail: ErrorDetails) -> Conflict:
    """Say pydantic's error in the words of someone who writes YAML."""
    loc: Loc = tuple(part for part in detail["loc"] if not _is_marker(part))
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    is_key = len(loc) < len(detail["loc"])
    if kind == CUSTOM_ERROR:
        return Conflict(loc, str(context["message"]), context["hint"], at_key=is_key)
    if kind == "extra_forbidden":
        key = str(loc[-1])
        return Conflict(
            loc,
            f"The key {quote(key)} is not known.",
            suggest_word(key, find_keys(model, loc[:-1])),
            at_key=True,
        )
    if kind == "missing":
        return Conflict(loc, f"The key {loc[-1]!r} is missing.", suggest_missing(model, loc), at_key=True)
    if kind in YAML_NAMES:
        wanted = YAML_NAMES[kind]
        if value is None:
            return _name_no_value(loc, wanted)
        return Conflict(loc, f"{quote(value)} is not {wanted}.", suggest_value(model, loc, wanted, value))
    if kind in {"literal_error", "enum"}:
        choices = str(context["expected"]).replace("'", "")
        meant = suggest_choice(value, choices.replace(" or ", ", ").split(", "))
        return Conflict(loc, f"{quote(value)} is not one of {choices}.", meant)
    return Conflict(loc, f"{detail['msg'].removeprefix('Input ').capitalize()}.")


def check_mapping(content: Any, loc: Loc, whole: type[BaseModel]) -> tuple[Mapping[str, Any], list[Conflict]]:
    """Return what stands at ``loc`` of ``whole`` as a mapping, empty with a finding where it is none."""
    if isinstance(content, dict):
        return content, []
    return {}, [_translate_shape(whole, content, loc, "a mapping")]


def check_list(content: Any, loc: Loc, whole: type[BaseModel]) -> tuple[list[Any], list[Conflict]]:
    """Return what stands at ``loc`` of ``whole`` as a list, empty with a finding where it is none."""
    if isinstance(content, list):
        return content, []
    return [], [_translate_shape(whole, content, loc, "a list")]


def _name_no_value(loc: Loc, wanted: str) -> Conflict:
    return Conflict(loc, "There is no value.", f"Give it {wanted}, or remove the key.", at_key=True)


def _translate_shape(whole: type[BaseModel], content: Any, loc: Loc, wanted: str) -> Conflict:
    if content is None:
        return _name_no_value(loc, wanted)
    return Conflict(loc, f"{quote(content)} is not {wanted}.", suggest_value(whole, loc, wanted, content))
