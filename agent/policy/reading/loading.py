"""Reads a policy: from its file to a value, or to every problem in it with its line and column."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from agent.base.file_reading import read_file
from agent.core.quoting import quote
from agent.policy.entries import VolumeClass, VolumeEntry
from agent.policy.entry_checks import Defect, check_class, check_settings
from agent.policy.entry_conflicts import Claims, check_entry
from agent.policy.policy import Head, Policy
from agent.policy.policy_file import explaining, judge_file
from agent.policy.reading.field_checks import ValidatedPiece, check_list, check_mapping, check_piece
from agent.policy.settings import AgentSettings
from agent.policy.values.build import build_section
from agent.policy.values.fields import NAME_PATTERN
from agent.policy.yaml.problems import MAX_BYTES, Loc, PolicyError, Problem, limit_problems, name_place
from agent.policy.yaml.source import YamlSource, read_source

_SMALLEST = "The smallest policy is: version: 1"


def load_policy(path: str | Path, *, trust_owner: bool = False) -> Policy:
    """Read the policy file at ``path``, or raise PolicyError with everything that is wrong with it.

    What the file says is done as root, so only root may have written it. ``trust_owner`` skips that, for
    development alone. Blocks on the file's own filesystem; the file is read once and is never larger than
    ``MAX_BYTES``.
    """
    with explaining(path):
        found = read_file(str(path), MAX_BYTES + 1)
    policy, problems = read_policy(judge_file(Path(path), found, trust_owner=trust_owner))
    if policy is None or problems:
        raise PolicyError.of(str(path), problems)
    return policy


def check_policy(text: bytes | str) -> list[Problem]:
    """Return everything that is wrong with a policy, in the order of its lines; nothing if it is valid."""
    return read_policy(text)[1]


def read_policy(text: bytes | str) -> tuple[Policy | None, list[Problem]]:
    """Return the policy that ``text`` holds, or None and what is wrong with it. Never raises."""
    source, problems = read_content(text)
    return (None if problems else build_section(Policy, source.content)), problems


def read_content(text: bytes | str) -> tuple[YamlSource, list[Problem]]:
    """Return what ``text`` holds, from which a policy can be built, and what is wrong with it."""
    source = read_source(text)
    if not source.is_readable:
        return source, source.problems
    if not isinstance(source.content, dict):
        return source, [*source.problems, _name_no_mapping(source)]
    defects = _find_defects(source.content)
    return source, limit_problems([*source.problems, *(_place(defect, source) for defect in defects)])


# -- Its content ---------------------------------------------------------------------------------------------


def _name_no_mapping(source: YamlSource) -> Problem:
    if source.content is None:
        return Problem(1, 1, "", "The policy is empty.", _SMALLEST)
    mark = source.find_mark(())
    return Problem(mark.line, mark.column, "", "The policy is not a mapping of keys to values.", _SMALLEST)


def _place(defect: Defect, source: YamlSource) -> Problem:
    mark = source.find_mark(defect.loc, at_key=defect.at_key)
    return Problem(mark.line, mark.column, name_place(defect.loc), defect.message, defect.hint)


def _find_defects(content: dict[str, Any]) -> list[Defect]:
    head = {key: value for key, value in content.items() if key not in {"classes", "volumes"}}
    checked = check_piece(Head, head, whole=Policy)
    defects = list(checked.defects)
    # Without a sound head its defaults stand in, so that the rest is still looked at.
    agent = checked.value.agent if checked.value is not None else AgentSettings()
    defects += _keep_sure(check_settings(agent), checked, ("agent",))
    classes, class_defects, has_all_classes = _read_classes(content.get("classes", {}))
    volumes, volume_defects = _read_volumes(content.get("volumes", []))
    defects += [*class_defects, *volume_defects]
    is_path_sure = checked.value is not None and not any("allowed_roots" in loc for loc in checked.pruned)
    claims = Claims()
    for index, entry in volumes:
        if entry.value is None:
            continue
        found = check_entry(
            index,
            entry.value,
            claims,
            agent if is_path_sure else None,
            classes if has_all_classes else None,
            says_freeze="freeze" in entry.content.get("snapshots", {}),
        )
        defects += _keep_sure(found, entry, ("volumes", index))
    return defects


def _read_classes(content: Any) -> tuple[dict[str, VolumeClass], list[Defect], bool]:
    """Return the sound classes, what is wrong with any, and whether all are there to be referred to."""
    mapping, defects = check_mapping(content, ("classes",), Policy)
    classes: dict[str, VolumeClass] = {}
    for name, item in mapping.items():
        base: Loc = ("classes", name)
        if not re.fullmatch(NAME_PATTERN.removesuffix("$"), name, re.ASCII):
            defects.append(Defect(base, f"{quote(name)} is not a name.", "One is fast", at_key=True))
        body = check_piece(VolumeClass, item)
        defects += [found.place_in(base) for found in body.defects]
        if body.value is not None:
            defects += _keep_sure(check_class(body.value), body, base)
            classes[name] = body.value
    return classes, defects, len(classes) == len(mapping) and isinstance(content, dict)


def _read_volumes(content: Any) -> tuple[list[tuple[int, ValidatedPiece[VolumeEntry]]], list[Defect]]:
    items, defects = check_list(content, ("volumes",), Policy)
    volumes = [(index, check_piece(VolumeEntry, item)) for index, item in enumerate(items)]
    for index, checked in volumes:
        defects += [found.place_in(("volumes", index)) for found in checked.defects]
    return volumes, defects


def _keep_sure(found: Any, checked: ValidatedPiece[Any], base: Loc) -> list[Defect]:
    return [defect.place_in(base) for defect in found if checked.is_sure(defect)]
