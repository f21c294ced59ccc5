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
from agent.core.suggestions import suggest_word
from agent.policy.entry_checks import Defect
from agent.policy.reading.models import CUSTOM_ERROR, make_model
from agent.policy.reading.remedies import (
    YAML_NAMES,
    find_keys,
    suggest_choice,
    suggest_missing,
    suggest_value,
)
from agent.policy.values.build import build_section
from agent.policy.yaml.problems import MAX_PROBLEMS, Loc

S = TypeVar("S")

_MAX_ROUNDS = 12


class ValidatedPiece(Generic[S]):
    """The sound remainder of a piece, None where there is none, with what was wrong and what was pruned."""

    def __init__(
        self, value: S | None, defects: list[Defect], pruned: list[Loc], content: Any = None
    ) -> None:
        self.value = value
        self.content = content
        """What ``value`` is built of."""
        self.defects = defects
        self.pruned = pruned

    def is_sure(self, defect: Defect) -> bool:
        """Tell whether a contradiction rests on nothing that was pruned."""
        places = (defect.loc, *defect.rests_on)
        return not any(_overlaps(place, gone) for place in places if place for gone in self.pruned)


def check_piece(section: type[S], content: Any, *, whole: type[Any] | None = None) -> ValidatedPiece[S]:
    """Check ``content`` (plain dicts, lists and scalars) against ``section``, a dataclass.

    ``whole``: what ``section`` is a part of, whose keys are suggested for one that is not known.
    """
    remainder = _copy(content)
    # No key takes null: a key whose value was left out or commented out is a slip, not a wish.
    pruned = list(_drop_empty(remainder, ())) if isinstance(remainder, dict) else []
    defects = [_name_no_value(loc, "one") for loc in pruned]
    model = make_model(section)
    around = make_model(whole or section)
    for _ in range(_MAX_ROUNDS):
        try:
            model.model_validate(remainder)
        except ValidationError as error:
            details = error.errors(include_url=False)
        else:
            return ValidatedPiece(build_section(section, remainder), defects, pruned, remainder)
        fresh = [detail for detail in details if not _is_consequence(detail, pruned)]
        defects += [_translate(around, detail) for detail in fresh[: MAX_PROBLEMS - len(defects)]]
        gone = [_prune(remainder, detail) for detail in details]
        if () in gone:
            return ValidatedPiece(None, defects, [*pruned, ()])
        pruned += [loc for loc in gone if loc is not None]
    return ValidatedPiece(None, defects, [*pruned, ()])


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


def _translate(model: type[BaseModel], detail: ErrorDetails) -> Defect:
    """Say pydantic's error in the words of someone who writes YAML."""
    loc: Loc = tuple(part for part in detail["loc"] if not _is_marker(part))
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    is_key = len(loc) < len(detail["loc"])
    if kind == CUSTOM_ERROR:
        return Defect(loc, str(context["message"]), context["hint"], at_key=is_key)
    if kind == "extra_forbidden":
        key = str(loc[-1])
        return Defect(
            loc,
            f"The key {quote(key)} is not known.",
            suggest_word(key, find_keys(model, loc[:-1])),
            at_key=True,
        )
    if kind == "missing":
        return Defect(loc, f"The key {loc[-1]!r} is missing.", suggest_missing(model, loc), at_key=True)
    if kind in YAML_NAMES:
        wanted = YAML_NAMES[kind]
        if value is None:
            return _name_no_value(loc, wanted)
        return Defect(loc, f"{quote(value)} is not {wanted}.", suggest_value(model, loc, wanted, value))
    if kind in {"literal_error", "enum"}:
        choices = str(context["expected"]).replace("'", "")
        meant = suggest_choice(value, choices.replace(" or ", ", ").split(", "))
        return Defect(loc, f"{quote(value)} is not one of {choices}.", meant)
    return Defect(loc, f"{detail['msg'].removeprefix('Input ').capitalize()}.")


def check_mapping(content: Any, loc: Loc, whole: type[Any]) -> tuple[Mapping[str, Any], list[Defect]]:
    """Return what stands at ``loc`` of ``whole`` as a mapping, empty with a defect where it is none."""
    if isinstance(content, dict):
        return content, []
    return {}, [_translate_shape(whole, content, loc, "a mapping")]


def check_list(content: Any, loc: Loc, whole: type[Any]) -> tuple[list[Any], list[Defect]]:
    """Return what stands at ``loc`` of ``whole`` as a list, empty with a defect where it is none."""
    if isinstance(content, list):
        return content, []
    return [], [_translate_shape(whole, content, loc, "a list")]


def _name_no_value(loc: Loc, wanted: str) -> Defect:
    return Defect(loc, "There is no value.", f"Give it {wanted}, or remove the key.", at_key=True)


def _translate_shape(whole: type[Any], content: Any, loc: Loc, wanted: str) -> Defect:
    if content is None:
        return _name_no_value(loc, wanted)
    return Defect(
        loc, f"{quote(content)} is not {wanted}.", suggest_value(make_model(whole), loc, wanted, content)
    )
