"""Reads a policy: from its file to a value, or to every problem in it with its line and column."""

from __future__ import annotations

import re
import shlex
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.base.file_reading import FileRead, read_file
from agent.base.off_loop import Aside, do_here
from agent.core.errors import AgentError
from agent.core.quoting import quote
from agent.policy.entries import VolumeClass, VolumeEntry
from agent.policy.entry_checks import (
    Defect,
    check_claim,
    check_class,
    check_path,
    check_settings,
    check_volume,
)
from agent.policy.entry_conflicts import Claims
from agent.policy.policy import Head, Policy
from agent.policy.reading.field_checks import ValidatedPiece, check_list, check_mapping, check_piece
from agent.policy.settings import AgentSettings
from agent.policy.values.fields import NAME_PATTERN
from agent.policy.yaml.problems import Loc, PolicyError, Problem, limit_problems, name_place
from agent.policy.yaml.source import MAX_BYTES, YamlSource, read_source

_SMALLEST = "The smallest policy is: version: 1"


def load_policy(path: str | Path, *, trust_owner: bool = False) -> Policy:
    """Read the policy file at ``path``, or raise PolicyError with everything that is wrong with it.

    What the file says is done as root, so only root may have written it. ``trust_owner`` skips that, for
    development alone. Blocks on the file's own filesystem; the file is read once and is never larger than
    ``MAX_BYTES``.
    """
    with _explaining(path):
        found = read_file(str(path), MAX_BYTES + 1)
    return _judge_file(Path(path), found, trust_owner=trust_owner)


@dataclass(frozen=True)
class PolicyFile:
    """The policy's file to a daemon, which does not wait for its disk."""

    path: Path
    aside: Aside = do_here

    async def load(self, *, trust_owner: bool = False) -> Policy:
        """Do as ``load_policy`` does. Raises NotAnsweringError where the file's disk hangs."""
        return _judge_file(self.path, await self._read(), trust_owner=trust_owner)

    async def find_lines(self, policy: Policy, locs: Sequence[Loc]) -> list[int | None]:
        """Return the lines on which the file says each of ``locs``, or what is around it.

        None where the file cannot be read, or says something else by now than ``policy``.
        """
        try:
            raw = (await self._read()).content
        except AgentError:
            return [None for _ in locs]
        if read_policy(raw)[0] != policy:
            return [None for _ in locs]
        source = read_source(raw)
        return [source.find_mark(loc, at_key=True).line for loc in locs]

    async def _read(self) -> FileRead:
        with _explaining(self.path):
            return await self.aside(read_file, str(self.path), MAX_BYTES + 1, subject=str(self.path))


def check_policy(text: bytes | str) -> list[Problem]:
    """Return everything that is wrong with a policy, in the order of its lines; nothing if it is valid."""
    return read_policy(text)[1]


def read_policy(text: bytes | str) -> tuple[Policy | None, list[Problem]]:
    """Return the policy that ``text`` holds, or None and what is wrong with it. Never raises."""
    source = read_source(text)
    if not source.is_readable:
        return None, source.problems
    if not isinstance(source.content, dict):
        return None, [*source.problems, _name_no_mapping(source)]
    policy, defects = _read_content(source.content)
    problems = limit_problems([*source.problems, *(_place(defect, source) for defect in defects)])
    return (None if problems else policy), problems


# -- The file ------------------------------------------------------------------------------------------------


@contextmanager
def _explaining(path: str | Path) -> Iterator[None]:
    """Say of a policy that cannot be read what is wrong with it."""
    try:
        yield
    except FileNotFoundError:
        raise PolicyError(
            f"There is no policy at {path}.", hint=f"Write one, and check it with: ebs-agent check {path}"
        ) from None
    except (OSError, ValueError) as error:
        raise PolicyError(f"The policy {path} cannot be read: {_describe(error)}.") from None


def _judge_file(path: Path, found: FileRead, *, trust_owner: bool) -> Policy:
    if not found.is_regular:
        raise PolicyError(f"The policy {path} is not a file.")
    if not trust_owner:
        _check_owner(path, found)
    policy, problems = read_policy(found.content)
    if policy is None or problems:
        raise PolicyError.of(str(path), problems)
    return policy


def _check_owner(path: Path, found: FileRead) -> None:
    name = shlex.quote(str(path))
    problems: list[tuple[str, str]] = []
    if found.uid != 0:
        problems.append((f"belongs to user {found.uid}", f"chown root:root {name}"))
    if found.mode & (stat.S_IWGRP | stat.S_IWOTH):
        problems.append((f"has mode {stat.S_IMODE(found.mode):04o}", f"chmod go-w {name}"))
    if problems:
        what = " and ".join(what for what, _ in problems)
        commands = " && ".join(command for _, command in problems)
        raise PolicyError(
            f"The policy {path} {what}; only root may be able to change it.",
            hint=f"Check what it says, then run: {commands}",
        )


def _describe(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


# -- Its content ---------------------------------------------------------------------------------------------


def _name_no_mapping(source: YamlSource) -> Problem:
    if source.content is None:
        return Problem(1, 1, "", "The policy is empty.", _SMALLEST)
    mark = source.find_mark(())
    return Problem(mark.line, mark.column, "", "The policy is not a mapping of keys to values.", _SMALLEST)


def _place(defect: Defect, source: YamlSource) -> Problem:
    mark = source.find_mark(defect.loc, at_key=defect.at_key)
    return Problem(mark.line, mark.column, name_place(defect.loc), defect.message, defect.hint)


def _read_content(content: dict[str, Any]) -> tuple[Policy | None, list[Defect]]:
    head = {key: value for key, value in content.items() if key not in {"classes", "volumes"}}
    checked = check_piece(Head, head, whole=Policy)
    defects = list(checked.defects)
    # Without a sound head its defaults stand in, so that the rest is still looked at.
    agent = checked.value.agent if checked.value is not None else AgentSettings()
    defects += _keep_sure(check_settings(agent), checked, ("agent",))
    classes, class_defects, has_all_classes = _read_classes(content.get("classes", {}))
    volumes, volume_defects = _read_volumes(content.get("volumes", []))
    defects += [*class_defects, *volume_defects]
    claims = Claims()
    for index, entry in volumes:
        base: Loc = ("volumes", index)
        if entry.value is None:
            continue
        says_freeze = "freeze" in entry.content.get("snapshots", {})
        defects += _keep_sure(check_volume(entry.value, says_freeze=says_freeze), entry, base)
        defects += _keep_sure(claims.add(index, entry.value), entry, base)
        if not any("allowed_roots" in loc for loc in checked.pruned) and checked.value is not None:
            defects += _keep_sure(check_path(entry.value, agent), entry, base)
        if has_all_classes:
            defects += _keep_sure(check_claim(entry.value, classes), entry, base)
    sound = tuple(entry.value for _, entry in volumes if entry.value is not None)
    return Policy(version=1, agent=agent, classes=classes, volumes=sound), defects


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
