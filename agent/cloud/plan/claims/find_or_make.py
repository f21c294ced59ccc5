"""Decides how a claim gets its volume and keeps it: made once, found again, taken over, never two of it.

A claim's volume is known by its tags alone, so it is found again after a restart, by another process, and by
the instance that replaces this one. Making it twice is prevented by a client token that everyone derives the
same way. One that is gone is asked about by that token: only AWS's word that it is deleted counts. Another is
made in its place once; after that a person has to say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from agent.cloud.aws.making_calls import CopyVolumes, CreateVolume, MakingCall
from agent.cloud.aws.models import (
    MADE_BY,
    TAG_CLAIM,
    TAG_CLUSTER,
    TAG_COPY_OF,
    TAG_MADE_BY,
    TAG_NODE,
    CloudVolume,
)
from agent.cloud.plan.attach_volume import plan_attach
from agent.cloud.plan.claims.wanted_volume import WantedVolume
from agent.cloud.plan.decisions import Decision, Do, NodeView, Settled, explain_no_attach
from agent.cloud.state.made_volumes import ASK_AGAIN_S, MOST_GENERATIONS, Making
from agent.core.model import Reason, VolumeId
from agent.core.steps import Refuse, Wait


def find_claimed(wanted: WantedVolume, volumes: Iterable[CloudVolume]) -> tuple[CloudVolume, ...]:
    """Return the volumes that carry the claim's tags and are not going away, oldest first."""
    marks = {TAG_MADE_BY: MADE_BY, TAG_CLUSTER: wanted.cluster, TAG_CLAIM: wanted.name, TAG_NODE: wanted.node}
    found = (
        volume
        for volume in volumes
        if not volume.is_gone and all(volume.tag(key) == value for key, value in marks.items())
    )
    return tuple(sorted(found, key=lambda volume: (volume.created_at, volume.volume_id)))


def choose_claimed(claimed: Sequence[CloudVolume], node: NodeView) -> CloudVolume | None:
    """Return the one volume that is the claim's: the only one, or the only one that is here."""
    here = [volume for volume in claimed if volume.volume_id in node.devices]
    found = here or claimed
    return found[0] if len(found) == 1 else None


def is_disowned(making: Making, volumes: Mapping[VolumeId, CloudVolume]) -> bool:
    """Return whether the claim's volume is there, which was not found by the claim's tags."""
    last = None if making.volume_id is None else volumes.get(making.volume_id)
    return last is not None and not last.is_gone


def plan_claim(
    wanted: WantedVolume,
    volumes: Mapping[VolumeId, CloudVolume],
    node: NodeView,
    making: Making,
    now_s: float,
) -> Decision:
    """Decide the next thing on the way to having the claim's volume here."""
    claimed = find_claimed(wanted, volumes.values())
    chosen = choose_claimed(claimed, node)
    if chosen is not None:
        return plan_attach(chosen, node, may_take_over=True)
    if claimed:
        return _refuse_several(wanted, claimed)
    if making.volume_id is not None and is_disowned(making, volumes):
        return _refuse_disowned(wanted, volumes[making.volume_id])
    if making.is_lost_too_often or (making.is_seen and making.lost):
        return _refuse_lost(wanted, making)
    if making.generation >= MOST_GENERATIONS:
        return _refuse_used_up(wanted)
    if node.is_out_of_reach:
        return explain_no_attach(f"No volume is made for {wanted.name!r}", node)
    if making.asked_at_s is None or now_s - making.asked_at_s >= ASK_AGAIN_S:
        return find_copy_obstacle(wanted, volumes) or Do(make_call(wanted, making.generation))
    if making.has_vanished:
        return Wait(Reason.WAITING_FOR_CLOUD, _tell_vanished(wanted, making), _KEY_HINT)
    return Wait(
        Reason.WAITING_FOR_CLOUD, f"The volume of {wanted.name!r} is made; AWS does not describe it yet."
    )


def find_claim_notice(
    wanted: WantedVolume, decision: Decision, volumes: Iterable[CloudVolume], making: Making
) -> Wait | Refuse | None:
    """Return what a person has to know of a claim whose volume is here all the same."""
    if not isinstance(decision, Settled):
        return None
    here = decision.volume.volume_id
    others = [one.volume_id for one in find_claimed(wanted, volumes) if one.volume_id != here]
    if others:
        return Refuse(
            Reason.SEVERAL_VOLUMES,
            f"{here} is used for claim {wanted.name!r}, and {', '.join(others)} carries the same tags.",
            hint=f"Find out which one holds the data, and remove the tag {TAG_CLAIM} from the others.",
        )
    if making.lost:
        return Wait(
            Reason.NOT_ATTACHED,
            f"{', '.join(making.lost)} of claim {wanted.name!r} is deleted, not by the agent. {here} was "
            "made in its place, and does not hold what was on it.",
            hint="Restore a snapshot if there is one. `ebs-agent reload` takes note of the loss.",
        )
    return None


def make_call(wanted: WantedVolume, generation: int) -> MakingCall:
    """Return the call that makes the claim's volume."""
    if wanted.source_volume_id is not None:
        return _make_copy_call(wanted, wanted.source_volume_id, generation)
    return CreateVolume(
        client_token=wanted.make_token(generation),
        zone=wanted.zone,
        size_gib=wanted.size_gib,
        type=wanted.type,
        tags=wanted.all_tags,
        iops=wanted.iops,
        throughput=wanted.throughput,
        is_encrypted=wanted.is_encrypted,
        kms_key_id=wanted.kms_key_id,
        snapshot_id=wanted.snapshot_id,
        initialization_rate_mib=wanted.initialization_rate_mib,
        is_multi_attach=wanted.is_multi_attach,
        generation=generation,
    )


def _make_copy_call(wanted: WantedVolume, source: VolumeId, generation: int) -> CopyVolumes:
    """Return the call that makes the claim's volume as a copy."""
    return CopyVolumes(
        source_volume_id=source,
        client_token=wanted.make_token(generation),
        size_gib=wanted.size_gib,
        type=wanted.type,
        tags=tuple(sorted((*wanted.all_tags, (TAG_COPY_OF, source)))),
        iops=wanted.iops,
        throughput=wanted.throughput,
        is_encrypted=wanted.is_encrypted,
        kms_key_id=wanted.kms_key_id,
        is_multi_attach=wanted.is_multi_attach,
        generation=generation,
    )


def find_copy_obstacle(wanted: WantedVolume, volumes: Mapping[VolumeId, CloudVolume]) -> Wait | Refuse | None:
    """Return why the copy that a claim wants cannot be made of its source; None: nothing is known against it.

    Source: the EC2 API reference, CopyVolumes.
    """
    if wanted.source_volume_id is None:
        return None
    source = volumes.get(wanted.source_volume_id)
    if source is None or source.is_gone:
        return Wait(
            Reason.NOT_ATTACHED,
            f"AWS knows no {wanted.source_volume_id} in this account and region, of which {wanted.name!r} is "
            "to be a copy.",
            hint="Is the ID right, and the volume in this region and account?",
        )
    what = f"{wanted.name!r} cannot be a copy of {source.volume_id}"
    if source.zone != wanted.zone:
        return Wait(
            Reason.WRONG_ZONE,
            f"{what}: that lies in {source.zone}, this node in {wanted.zone}.",
            hint="A copy is made in the zone of its source. Snapshot that, and say from: SNAPSHOT.",
        )
    if source.state not in {"available", "in-use"}:
        return Wait(Reason.WAITING_FOR_CLOUD, f"{what} yet: that is {source.state}.")
    if wanted.size_gib is not None and wanted.size_gib < source.size_gib:
        return Refuse(
            Reason.CLOUD_ERROR,
            f"{what}: the claim has {wanted.size_gib} GiB, and that has {source.size_gib}.",
            hint="A copy is as large as its source, or larger: leave size out, or raise it.",
        )
    if source.is_encrypted and wanted.is_encrypted is False:
        return Refuse(
            Reason.CLOUD_ERROR,
            f"{what}: that is encrypted, as every copy of it is, and the class says encrypted: false.",
            hint="Leave encrypted out of the class, or say true.",
        )
    return None


_KEY_HINT = (
    "The key has to be enabled, and its policy has to allow kms:CreateGrant, kms:DescribeKey and "
    "kms:GenerateDataKeyWithoutPlaintext to this node's role; `ebs-agent iam-policy --kms` prints the "
    "statement. `ebs-agent reload` then has the volume made."
)


def _tell_vanished(wanted: WantedVolume, making: Making) -> str:
    key = f"KMS key {wanted.kms_key_id}" if wanted.kms_key_id else "KMS key by which this account encrypts"
    return (
        f"{making.lost[-1]}, made for {wanted.name!r}, vanished before AWS described it. The usual cause is "
        f"that the {key} may not be used."
    )


def _refuse_several(wanted: WantedVolume, claimed: Sequence[CloudVolume]) -> Refuse:
    names = ", ".join(volume.volume_id for volume in claimed)
    return Refuse(
        Reason.SEVERAL_VOLUMES,
        f"{len(claimed)} volumes carry the tags of claim {wanted.name!r}: {names}.",
        hint=f"Find out which one holds the data, and remove the tag {TAG_CLAIM} from the others.",
    )


def _refuse_disowned(wanted: WantedVolume, volume: CloudVolume) -> Refuse:
    return Refuse(
        Reason.NOT_ATTACHED,
        f"{volume.volume_id} was the volume of claim {wanted.name!r}, and no longer carries its tags.",
        hint=f"Give it {TAG_CLAIM}={wanted.name} and {TAG_NODE}={wanted.node} back, or give the claim "
        "another name to have a new volume made.",
    )


def _refuse_lost(wanted: WantedVolume, making: Making) -> Refuse:
    if making.has_vanished and not making.is_seen:
        return Refuse(Reason.CLOUD_ERROR, _tell_vanished(wanted, making), _KEY_HINT)
    lost = dict.fromkeys((*making.lost, *([making.volume_id] if making.volume_id else [])))
    return Refuse(
        Reason.NOT_ATTACHED,
        f"The volumes of claim {wanted.name!r} are deleted, not by the agent: {', '.join(lost)}.",
        hint="Find out who deletes them. `ebs-agent reload` has another one made.",
    )


def _refuse_used_up(wanted: WantedVolume) -> Refuse:
    return Refuse(
        Reason.CLOUD_ERROR,
        f"{MOST_GENERATIONS} volumes of claim {wanted.name!r} were made and deleted.",
        hint="Find out who deletes them, and give the claim another name.",
    )
