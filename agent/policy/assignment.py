"""Which policy entry a volume gets: pure, over all volumes present, and stable from look to look.

A volume gets one entry and an entry one volume. Where two could be meant the answer is an error that names
both, never a choice; only among several volumes that match one entry is one chosen: the one that holds it,
else the first by volume ID.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypeAlias

from agent.core.errors import AgentError
from agent.core.model import Reason, VolumeId, Wanted, WantedBlock, WantedFilesystem, WantedMount
from agent.policy.entries import VolumeEntry
from agent.policy.matching import Candidate, MatchContext, explain_match
from agent.policy.values.mount_options import normalise_options
from agent.policy.values.mount_path import PathFacts, expand_path

Assignment: TypeAlias = "Wanted | AgentError | None"
"""What is wanted of a volume; why nothing can be; or None: the policy does not name it."""


def assign(
    entries: Sequence[VolumeEntry], volumes: Iterable[Candidate], around: MatchContext
) -> dict[VolumeId, Assignment]:
    """Return what is wanted of each volume.

    The order of ``volumes`` and ``entries`` makes no difference. Give all that are present: whether one
    conflicts with another is seen only so.
    """
    ordered = sorted(volumes, key=lambda volume: (not volume.is_present, volume.volume_id))
    holders = {volume_id: name for name, volume_id in around.held.items()}
    result: dict[VolumeId, Assignment] = {}
    takers: dict[str, list[tuple[VolumeEntry, Candidate]]] = {}
    by_volume, others = _index_entries(entries, around)
    for volume in ordered:
        possible = sorted((*by_volume.get(volume.volume_id, ()), *others))
        meant = [entries[number] for number in possible]
        chosen = _choose_entry(meant, volume, around, holders.get(volume.volume_id))
        if isinstance(chosen, VolumeEntry):
            takers.setdefault(chosen.name, []).append((chosen, volume))
        else:
            result[volume.volume_id] = chosen
    for name, taking in takers.items():
        keeper = next((v for _, v in taking if around.held.get(name) == v.volume_id), taking[0][1])
        for entry, volume in taking:
            if volume is keeper:
                result[volume.volume_id] = _make_assignment(entry, volume, around)
            else:
                result[volume.volume_id] = _name_several_volumes(entry, volume, keeper)
    ranks = {volume.volume_id: rank for rank, volume in enumerate(ordered)}
    _settle_paths(result, around.held, ranks)
    return {volume.volume_id: result[volume.volume_id] for volume in ordered}


def _index_entries(
    entries: Sequence[VolumeEntry], around: MatchContext
) -> tuple[Mapping[VolumeId, Sequence[int]], Sequence[int]]:
    """Return which entries one volume alone can have, by their places, and those that any might.

    An entry that names a volume, or whose claim has one, matches no other, nor does another keep it: so not
    every volume is compared with every entry, which there may be one of for each.
    """
    by_volume: dict[VolumeId, list[int]] = {}
    others: list[int] = []
    for number, entry in enumerate(entries):
        only = entry.volume_id
        if only is None and entry.claim is not None:
            only = around.claimed.get(entry.name)
        (others if only is None else by_volume.setdefault(only, [])).append(number)
    return by_volume, others


def _choose_entry(
    entries: Sequence[VolumeEntry], volume: Candidate, around: MatchContext, held_name: str | None
) -> VolumeEntry | AgentError | None:
    judged = [(entry, explain_match(entry, volume, around)) for entry in entries]
    if volume.is_present:
        exact = [entry for entry, explained in judged if explained.is_exact]
    else:
        exact = [entry for entry, explained in judged if explained.names_it and explained.may_keep]
    kept = [e for e, explained in judged if e.name == held_name and explained.may_keep]
    fuzzy = [entry for entry, explained in judged if explained.is_match]
    for choice in (exact, kept, fuzzy):
        if len(choice) == 1:
            return choice[0]
        if choice:
            return _name_several_entries(choice, volume)
    return None


def _name_several_entries(entries: Sequence[VolumeEntry], volume: Candidate) -> AgentError:
    names = " and ".join(repr(entry.name) for entry in sorted(entries, key=lambda entry: entry.name))
    return AgentError(
        f"{volume.volume_id} matches the policy entries {names}.",
        hint="Name the volume by match.volume_id in the one that is meant, or tell them apart.",
        reason=Reason.SEVERAL_ENTRIES,
        retryable=False,
    )


def _name_several_volumes(entry: VolumeEntry, volume: Candidate, keeper: Candidate) -> AgentError:
    return AgentError(
        f"{volume.volume_id} matches the policy entry {entry.name!r}, which {keeper.volume_id} has.",
        hint="An entry is for one volume: give this one an entry of its own, or tell them apart.",
        reason=Reason.SEVERAL_VOLUMES,
        retryable=False,
    )


def _settle_paths(
    result: dict[VolumeId, Assignment], held: Mapping[str, VolumeId], ranks: Mapping[VolumeId, int]
) -> None:
    """Let no two volumes have one mount path, or one inside the other, once templates are filled in."""
    wanted = [item for item in result.values() if isinstance(item, Wanted) and item.mount is not None]
    wanted.sort(key=lambda item: (held.get(item.name) != item.volume_id, ranks[item.volume_id]))
    taken: dict[PurePosixPath, Wanted] = {}
    above: dict[PurePosixPath, Wanted] = {}
    for item in wanted:
        if item.mount is None:
            continue
        path = PurePosixPath(item.mount.path)
        other = above.get(path) or next((taken[up] for up in (path, *path.parents) if up in taken), None)
        if other is not None:
            result[item.volume_id] = _name_path_conflict(item, str(path), other)
            continue
        taken[path] = item
        for up in path.parents:
            above.setdefault(up, item)


def _name_path_conflict(item: Wanted, path: str, other: Wanted) -> AgentError:
    place = other.mount.path if other.mount is not None else path
    return AgentError(
        f"{item.volume_id} cannot be mounted at {path} for {item.name!r}: {other.volume_id} of"
        f" {other.name!r} has {place}.",
        hint="Give them mount paths of which none holds the other.",
        reason=Reason.PATH_IN_USE,
        retryable=False,
    )


# -- What an entry wants -------------------------------------------------------------------------------------


def _make_assignment(entry: VolumeEntry, volume: Candidate, around: MatchContext) -> Assignment:
    try:
        return make_wanted(entry, volume, around)
    except AgentError as error:
        return error


def make_wanted(entry: VolumeEntry, volume: Candidate, around: MatchContext) -> Wanted:
    """Return what ``entry`` wants of a volume it matches. Raises AgentError (PathNotAllowed)."""
    filesystem = entry.filesystem
    return Wanted(
        volume_id=volume.volume_id,
        name=entry.name,
        filesystem=None
        if filesystem is None
        else WantedFilesystem(filesystem.type, filesystem.format, filesystem.label, filesystem.mkfs_options),
        mount=_make_mount(entry, volume, around),
        block=None
        if entry.block is None
        else WantedBlock(entry.block.owner, entry.block.group, entry.block.mode),
        grow=entry.grow,
        required=entry.required,
        tune=entry.tune.wanted,
        is_broad=volume.volume_id not in {entry.volume_id, around.claimed.get(entry.name)},
    )


def _make_mount(entry: VolumeEntry, volume: Candidate, around: MatchContext) -> WantedMount | None:
    mount = entry.mount
    if mount is None:
        return None
    facts = PathFacts(volume.volume_id, entry.name, around.node, volume.origin)
    return WantedMount(
        path=expand_path(mount.path, facts, around.allowed_roots),
        options=normalise_options(mount.options, None if entry.filesystem is None else entry.filesystem.type),
        owner=mount.owner,
        group=mount.group,
        mode=mount.mode,
    )
