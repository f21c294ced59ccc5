"""The calls that make a volume: blank or of a snapshot, and as a copy of another one.

``calls`` has the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from typing_extensions import override

from agent.cloud.aws.answer_fields import Members
from agent.cloud.aws.call import Change, SentAs
from agent.cloud.aws.models import CloudVolume, Tags, parse_volume
from agent.cloud.aws.request_syntax import write_tags_of
from agent.core.errors import AgentError
from agent.core.model import VolumeId

_Token: TypeAlias = Annotated[str, SentAs("ClientToken")]
_Type: TypeAlias = Annotated[str, SentAs("VolumeType")]
_Tags: TypeAlias = Annotated[Tags, write_tags_of("volume")]
_Size: TypeAlias = Annotated["int | None", SentAs("Size")]
_Iops: TypeAlias = Annotated["int | None", SentAs("Iops")]
_Throughput: TypeAlias = Annotated["int | None", SentAs("Throughput")]
_Encrypted: TypeAlias = Annotated["bool | None", SentAs("Encrypted")]
_Key: TypeAlias = Annotated["str | None", SentAs("KmsKeyId")]
_MultiAttach: TypeAlias = Annotated[bool, SentAs("MultiAttachEnabled", lambda it: it or None)]


@dataclass(frozen=True)
class CreateVolume(Change[CloudVolume], is_repeatable=True, reads=parse_volume):
    """Make a volume. The client token makes a repetition yield the same volume, never a second one."""

    client_token: _Token
    zone: Annotated[str, SentAs("AvailabilityZone")]
    size_gib: _Size
    """None: as large as the snapshot's volume was."""
    type: _Type
    tags: _Tags
    iops: _Iops = None
    throughput: _Throughput = None
    is_encrypted: _Encrypted = None
    kms_key_id: _Key = None
    snapshot_id: Annotated[str | None, SentAs("SnapshotId")] = None
    initialization_rate_mib: Annotated[int | None, SentAs("VolumeInitializationRate")] = None
    is_multi_attach: _MultiAttach = False
    generation: int = 0
    """Which volume of its claim this is, counting those deleted; it is in the token, not in the call."""

    @override
    def describe(self) -> str:
        origin = f" from {self.snapshot_id}" if self.snapshot_id else ""
        size = "" if self.size_gib is None else f" of {self.size_gib} GiB"
        return f"make a {self.type} volume{size} in {self.zone}{origin}"


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
    client_token: _Token
    size_gib: _Size
    """None: as large as the source."""
    type: _Type
    tags: _Tags
    iops: _Iops = None
    throughput: _Throughput = None
    is_encrypted: _Encrypted = None
    kms_key_id: _Key = None
    is_multi_attach: _MultiAttach = False
    is_dry_run: Annotated[bool, SentAs("DryRun", lambda it: it or None)] = False
    """Have it checked and not made: fails with ``WOULD_SUCCEED`` where it would be made."""
    generation: int = 0
    """Which volume of its claim this is, counting those deleted; it is in the token, not in the call."""

    @override
    def describe(self) -> str:
        size = "" if self.size_gib is None else f" of {self.size_gib} GiB"
        return f"make a {self.type} volume{size} as a copy of {self.source_volume_id}"


MakingCall: TypeAlias = "CreateVolume | CopyVolumes"
