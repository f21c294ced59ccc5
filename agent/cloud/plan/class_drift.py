"""Finds in what a claim's volume is not as its claim and class say, and puts all of it into one notice.

What they do not say is as AWS chose it, and no difference. Nor is what a volume began with: a snapshot and
its rate of filling count when it is made, and ``from`` is moved on for the nodes that are yet to come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.cloud.aws.models import CloudVolume, Modification
from agent.cloud.plan.claims.wanted_volume import WantedVolume
from agent.core.model import Difference, Reason, Remedy
from agent.core.replace import replace
from agent.core.steps import Refuse, Wait

MOST_TAGS_TOLD = 5

_HINT_NEW = (
    "Have a new volume made from a snapshot of this one, by a claim of another name with from: SNAPSHOT; or "
    "say in the class what the volume is."
)
_HINT_SIZE = "Say the size it has in the policy, or copy its contents to a new, smaller volume."


def find_shape_differences(
    volume: CloudVolume, wanted: WantedVolume, modification: Modification | None = None
) -> tuple[Difference, ...]:
    """Return in what the volume itself differs; ``modification`` is its last one."""
    return tuple(_list_shape(volume, aim(volume, modification), wanted))


def find_tag_differences(volume: CloudVolume, wanted: WantedVolume) -> tuple[Difference, ...]:
    """Return which tags differ. Others that the volume has are anybody's."""
    return tuple(
        Difference("tags", volume.tag(key) or "not set", value, Remedy.LATER, part=key)
        for key, value in wanted.all_tags
        if volume.tag(key) != value
    )


def aim(volume: CloudVolume, modification: Modification | None) -> CloudVolume:
    """Return the volume as it will be after the modification that is under way."""
    if modification is None or not modification.is_under_way:
        return volume
    return replace(
        volume,
        size_gib=modification.target_size_gib or volume.size_gib,
        type=modification.target_type or volume.type,
        iops=modification.target_iops or volume.iops,
        throughput=modification.target_throughput or volume.throughput,
    )


def _list_shape(volume: CloudVolume, aimed: CloudVolume, wanted: WantedVolume) -> Iterator[Difference]:
    def differ(what: str, found: str, aimed_at: str, should_be: str) -> Iterator[Difference]:
        if found != should_be:
            yield Difference(what, found, should_be, Remedy.NOW if aimed_at == should_be else Remedy.LATER)

    if wanted.size_gib is not None and wanted.size_gib < aimed.size_gib:
        found, should_be = f"{aimed.size_gib}GiB", f"{wanted.size_gib}GiB"
        yield Difference("size", found, should_be, Remedy.NEVER_SMALLER)
    elif wanted.size_gib is not None:
        yield from differ("size", f"{volume.size_gib}GiB", f"{aimed.size_gib}GiB", f"{wanted.size_gib}GiB")
    yield from differ("type", volume.type, aimed.type, wanted.type)
    if wanted.iops is not None:
        yield from differ("iops", _show(volume.iops), _show(aimed.iops), str(wanted.iops))
    if wanted.throughput is not None:
        now, soon = _show(volume.throughput), _show(aimed.throughput)
        yield from differ("throughput", now, soon, str(wanted.throughput))
    yield from _list_lasting(volume, wanted)


def _list_lasting(volume: CloudVolume, wanted: WantedVolume) -> Iterator[Difference]:
    """Yield what is decided for good when a volume is made."""
    if wanted.is_encrypted not in {None, volume.is_encrypted}:
        yield _lasting("encrypted", _show(volume.is_encrypted), _show(wanted.is_encrypted))
    elif not is_same_key(volume.kms_key_id, wanted.kms_key_id):
        yield _lasting("kms_key_id", volume.kms_key_id or "none", str(wanted.kms_key_id))
    if wanted.is_multi_attach != volume.is_multi_attach:
        yield _lasting("multi_attach", _show(volume.is_multi_attach), _show(wanted.is_multi_attach))


def _lasting(what: str, found: str, should_be: str) -> Difference:
    return Difference(what, found, should_be, Remedy.NEW_VOLUME)


def _show(value: bool | int | None) -> str:  # noqa: FBT001 -- a value of the policy
    return "none" if value is None else str(value).lower()


def is_same_key(described: str | None, wanted: str | None) -> bool:
    """Return whether a volume's key may be the one meant; AWS describes ARNs, so an alias may mean any."""
    if wanted is None or "alias/" in wanted:
        return True
    return described is not None and described.rpartition("/")[2] == wanted.rpartition("/")[2]


# -- Telling -------------------------------------------------------------------------------------------------


def ask(differences: Sequence[Difference]) -> tuple[Difference, ...]:
    """Return the differences once AWS was asked for what it can change."""
    return tuple(
        replace(one, remedy=Remedy.NOW) if one.remedy is Remedy.LATER else one for one in differences
    )


def tell_drift(
    volume: CloudVolume, name: str, differences: Sequence[Difference], why: Wait | Refuse | None = None
) -> Wait | Refuse | None:
    """Return all differences as one notice; ``why`` is what keeps the agent from changing more of it now.

    None where AWS is changing all of it, which is no defect, or nothing differs.
    """
    if why is None and all(one.remedy is Remedy.NOW for one in differences):
        return None
    if not differences:
        return why
    remedies = {one.remedy for one in differences}
    hints = [] if why is None or why.hint is None else [why.hint]
    hints += [_HINT_SIZE] if Remedy.NEVER_SMALLER in remedies else []
    hints += [_HINT_NEW] if Remedy.NEW_VOLUME in remedies else []
    message = f"{volume.volume_id} is not as claim {name!r} says: {_join(differences)}."
    if why is not None:
        message = f"{message} {why.message}"
    reason = Reason.DRIFTED if why is None else why.reason
    is_for_good = isinstance(why, Refuse) or not all(remedy.is_agents for remedy in remedies)
    return (Refuse if is_for_good else Wait)(reason, message, " ".join(hints) or None)


def _join(differences: Sequence[Difference]) -> str:
    told = [one.describe() for one in differences if not one.part]
    tags = [one.describe() for one in differences if one.part]
    more = [f"{len(tags) - MOST_TAGS_TOLD} more tags"] if len(tags) > MOST_TAGS_TOLD else []
    return "; ".join((*told, *tags[:MOST_TAGS_TOLD], *more))
