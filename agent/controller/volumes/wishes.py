"""Works out what of a volume is to be changed, all wishes for it in one modification. Pure.

A wish that cannot be is an error for who has it, and changes nothing of the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct, field

from agent.cloud.aws.calls import ModifyVolume
from agent.cloud.aws.models import CloudVolume, Modification, Tags
from agent.cloud.plan.class_drift import aim
from agent.controller.calls import GIB, Performance, SizeRange
from agent.controller.making.fit_size import check_limit, fit_size
from agent.controller.making.fit_speed import fit_iops
from agent.controller.making.iops_ratio import raise_iops
from agent.controller.making.marks import check_tag, is_own_tag
from agent.core.errors import AgentError, InvalidValueError
from agent.core.quoting import quote
from agent.core.replace import replace


class Wish(Struct, frozen=True):
    """What somebody asks of a volume that is there."""

    size: SizeRange | None = None
    performance: Performance = field(default_factory=Performance)
    tags: Tags = ()
    removed_tags: tuple[str, ...] = ()

    @property
    def is_larger(self) -> bool:
        """It asks for a size, and for nothing else."""
        return self.size is not None


class Plan(Struct, frozen=True):
    """The volume as it is to be, and whose wish cannot be."""

    target: CloudVolume
    refused: dict[Wish, AgentError]


def foresee(volume: CloudVolume, modification: Modification | None) -> CloudVolume:
    """Return the volume as its last modification makes it, or has made it; a failed one made nothing.

    A volume may be described as it was for some time after that is completed.
    """
    if modification is not None and modification.state == "completed":
        modification = replace(modification, state="optimizing")
    return aim(volume, modification)


def plan_wishes(volume: CloudVolume, wishes: Sequence[Wish]) -> Plan:
    """Return what becomes of the volume, sizes first, since IOPS may go by them."""
    refused: dict[Wish, AgentError] = {}
    for wish in sorted(wishes, key=lambda one: not one.is_larger):
        try:
            volume = _apply(volume, wish)
        except AgentError as error:  # noqa: PERF203 -- there are two at most
            refused[wish] = error
    return Plan(volume, refused)


def _apply(volume: CloudVolume, wish: Wish) -> CloudVolume:
    for key in (*(key for key, _ in wish.tags), *wish.removed_tags):
        if is_own_tag(key):
            raise InvalidValueError(
                f"The tag {quote(key)} of {volume.volume_id} is not a class's to change.",
                hint="The volume is found by it. Use another key.",
            )
    for key, value in wish.tags:
        check_tag(key, value, volume.volume_id)
    asked, what = wish.performance, volume.volume_id
    kind = asked.type or volume.type
    if kind != volume.type:  # of which nothing is kept of the old one's numbers
        volume = replace(volume, type=kind, iops=None, throughput=None)
        fit_size(SizeRange(volume.size_gib * GIB), kind, what=what)
    if wish.size is not None:
        check_limit(volume.size_gib, wish.size, what)
        if (wish.size.required_bytes or 0) > volume.size_gib * GIB:
            volume = replace(volume, size_gib=fit_size(wish.size, kind, what=what))
            volume = replace(volume, iops=raise_iops(volume))
    iops = fit_iops(asked, kind, volume.size_gib, what)
    return replace(
        volume,
        iops=volume.iops if iops is None else iops,
        throughput=volume.throughput if asked.throughput_mib is None else asked.throughput_mib,
    )


def find_change(now: CloudVolume, target: CloudVolume) -> ModifyVolume | None:
    """Return what makes the volume as it is to be; None where it is."""
    is_new_kind = now.type != target.type
    change = ModifyVolume(
        now.volume_id,
        target.size_gib if target.size_gib != now.size_gib else None,
        target.type if is_new_kind else None,
        target.iops if is_new_kind or target.iops != now.iops else None,
        target.throughput if is_new_kind or target.throughput != now.throughput else None,
    )
    return None if change == ModifyVolume(now.volume_id) else change
