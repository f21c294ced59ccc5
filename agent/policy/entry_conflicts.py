"""What contradicts what between entries: names, volumes and paths that two of them claim for themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import Struct, field

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
from agent.policy.policy import Policy
from agent.policy.settings import AgentSettings
from agent.policy.values.mount_path import split_template


class Claims(Struct):
    """What the entries seen so far claim for themselves, so that the next one's conflicts are found.

    Entries of different instance groups never meet on one node, and may claim the same.
    """

    _names: dict[str, int] = field(default_factory=dict)
    _volume_ids: dict[str, dict[str | None, str]] = field(default_factory=dict)
    _paths: dict[tuple[str, ...], dict[str | None, str]] = field(default_factory=dict)
    _parents: dict[tuple[str, ...], dict[str | None, str]] = field(default_factory=dict)

    def add(self, index: int, entry: VolumeEntry) -> Iterator[Defect]:
        """Find what ``entry`` claims that an earlier one does."""
        first = self._names.setdefault(entry.name, index)
        if first != index:
            message = f"The name {entry.name!r} is taken by volumes[{first}]."
            yield Defect(("name",), message, "Give each entry its own name.")
        if entry.volume_id is not None:
            other = _find_meeting(self._volume_ids.get(entry.volume_id), entry)
            if other is not None:
                yield Defect(("match", "volume_id"), f"{entry.volume_id} is claimed by {other!r} too.")
            self._volume_ids.setdefault(entry.volume_id, {}).setdefault(entry.instance_group, entry.name)
        if entry.mount is not None:
            yield from self._add_path(entry, entry.mount.path)

    def _add_path(self, entry: VolumeEntry, path: str) -> Iterator[Defect]:
        # {name} and {volume_id} differ from entry to entry, whatever else is in the path.
        parts = tuple(
            part.replace("{name}", entry.name).replace("{volume_id}", f"{{volume_id of {entry.name}}}")
            for part in split_template(path)
        )
        above = [parts[:length] for length in range(1, len(parts))]
        meeting = _find_meeting(self._paths.get(parts), entry)
        if meeting is not None:
            yield Defect(("mount", "path"), f"{quote(path, 80)} is claimed by {meeting!r} too.")
        around = next((found for up in above if (found := _find_meeting(self._paths.get(up), entry))), None)
        inside = _find_meeting(self._parents.get(parts), entry)
        if around is not None or inside is not None:
            where = f"lies inside the path of {around!r}" if around else f"holds the path of {inside!r}"
            hint = "A mount hides what is mounted beneath it before. Put them side by side."
            yield Defect(("mount", "path"), f"{quote(path, 80)} {where}.", hint)
        self._paths.setdefault(parts, {}).setdefault(entry.instance_group, entry.name)
        for up in above:
            self._parents.setdefault(up, {}).setdefault(entry.instance_group, entry.name)


def find_contradictions(policy: Policy) -> Iterator[Defect]:
    """Find whatever contradicts itself in a policy; places are those within entry or section."""
    yield from check_settings(policy.agent)
    for volume_class in policy.classes.values():
        yield from check_class(volume_class)
    claims = Claims()
    for index, entry in enumerate(policy.volumes):
        # That it says of a raw volume to freeze it does no harm.
        yield from check_entry(index, entry, claims, policy.agent, policy.classes, says_freeze=False)


def check_entry(
    index: int,
    entry: VolumeEntry,
    claims: Claims,
    agent: AgentSettings | None,
    classes: Mapping[str, VolumeClass] | None,
    *,
    says_freeze: bool,
) -> Iterator[Defect]:
    """Find what is wrong with an entry by itself, and beside those before it, which ``claims`` has seen.

    ``agent``, ``classes``: None where those of the policy are not sound, and nothing is held to them.
    """
    yield from check_volume(entry, says_freeze=says_freeze)
    yield from claims.add(index, entry)
    if agent is not None:
        yield from check_path(entry, agent)
    if classes is not None:
        yield from check_claim(entry, classes)


def _find_meeting(claimed: dict[str | None, str] | None, entry: VolumeEntry) -> str | None:
    """Return the earlier claimant whose nodes may be those of ``entry``."""
    if not claimed:
        return None
    if entry.instance_group is None:
        return next(iter(claimed.values()))
    return claimed.get(entry.instance_group) or claimed.get(None)
