"""Makes a claim's volume as a copy of another volume, with writes held where that is mounted on this node.

What EC2 copies is how the source is at one moment, as after a power cut. A filesystem that is frozen for that
moment is whole, and what its programs had written is in the copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias

from typing_extensions import override

from agent.cloud.aws.answer_fields import Members
from agent.cloud.aws.call import Change, Make, SentAs
from agent.cloud.aws.calls import CreateVolume
from agent.cloud.aws.models import TAG_COPY_OF, CloudVolume, Tags, parse_volume
from agent.cloud.aws.request_syntax import write_tags_of
from agent.cloud.plan.wanted_volume import WantedVolume
from agent.cloud.snapshots.take_frozen import make_held, rehearse
from agent.cloud.view.cloud_report import Hands
from agent.core.errors import AgentError
from agent.core.model import Reason, VolumeId
from agent.core.steps import Refuse, Wait

_Count: TypeAlias = "int | None"


def _parse_copy(value: Any) -> CloudVolume:
    """Return the one volume that CopyVolumes made, or made before under this token."""
    found = Members(value, "the answer").list("Volumes")
    if len(found) != 1:
        raise AgentError(f"the answer has {len(found)} volumes, and one was asked for")
    return parse_volume(found[0])


@dataclass(frozen=True)
class CopyVolumes(Change[CloudVolume], reads=_parse_copy):
    """Make a volume that holds what another of its zone holds now; it can be used at once.

    The client token makes a repetition yield the same volume. It is asked again by the next look only, since
    the source may be frozen meanwhile.
    """

    source_volume_id: Annotated[VolumeId, SentAs("SourceVolumeId")]
    client_token: Annotated[str, SentAs("ClientToken")]
    size_gib: Annotated[_Count, SentAs("Size")]
    """None: as large as the source."""
    type: Annotated[str, SentAs("VolumeType")]
    tags: Annotated[Tags, write_tags_of("volume")]
    iops: Annotated[_Count, SentAs("Iops")] = None
    throughput: Annotated[_Count, SentAs("Throughput")] = None
    is_encrypted: Annotated[bool | None, SentAs("Encrypted")] = None
    kms_key_id: Annotated[str | None, SentAs("KmsKeyId")] = None
    is_multi_attach: Annotated[bool, SentAs("MultiAttachEnabled", lambda it: it or None)] = False
    is_dry_run: Annotated[bool, SentAs("DryRun", lambda it: it or None)] = False
    """Have it checked and not made: fails with ``WOULD_SUCCEED`` where it would be made."""
    generation: int = 0
    """Which volume of its claim this is, counting those deleted; it is in the token, not in the call."""

    @override
    def describe(self) -> str:
        size = "" if self.size_gib is None else f" of {self.size_gib} GiB"
        return f"make a {self.type} volume{size} as a copy of {self.source_volume_id}"


MakingCall: TypeAlias = "CreateVolume | CopyVolumes"


async def make_volume(make: Make, hands: Hands, call: MakingCall) -> CloudVolume:
    """Make the volume and return it, or raise CloudError; what was frozen for it is thawed by then."""
    if not isinstance(call, CopyVolumes) or call.source_volume_id not in hands.list_devices():
        volume: CloudVolume = await make(call)
        return volume
    await rehearse(make, replace(call, is_dry_run=True))
    volume, _ = await make_held(make, hands.freeze, call.source_volume_id, call, "begin the copy")
    return volume


def find_obstacle(wanted: WantedVolume, volumes: Mapping[VolumeId, CloudVolume]) -> Wait | Refuse | None:
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


def make_copy_call(wanted: WantedVolume, source: VolumeId, generation: int) -> CopyVolumes:
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
