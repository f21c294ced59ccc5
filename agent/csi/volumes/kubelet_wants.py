"""What kubelet wants of volumes, as the engine takes it: beside what the policy wants, by the same values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

from agent.core.errors import AgentError, RefusedError
from agent.core.model import (
    FormatRule,
    FsType,
    Reason,
    Released,
    VolumeId,
    Wanted,
    WantedBlock,
    WantedFilesystem,
    WantedMount,
)
from agent.csi.volumes.staged_record import StagedRecord
from agent.loop.goals import Want


class KubeletWants:
    """The wants beside the policy's. ``resolve`` returns where a path of kubelet's leads.

    ``faults``: of volumes whose note says nothing, why it does not.
    """

    def __init__(
        self,
        records: Mapping[VolumeId, StagedRecord],
        resolve: Callable[[str], str],
        faults: Mapping[VolumeId, AgentError] = MappingProxyType({}),
    ) -> None:
        self._records = records
        self._faults = faults
        self.resolve = resolve
        self.refusals: dict[VolumeId, AgentError] = {}
        """Why the last call about a volume was refused: shown until it is called again, or goes."""

    def merge(self, wants: Mapping[VolumeId, Want], present: Collection[VolumeId]) -> dict[VolumeId, Want]:
        """Return what is wanted of each volume, by the policy and by kubelet; what both want, nobody gets.

        Of a volume that kubelet has taken back nothing is wanted until all of it is gone; and none of which
        it is not known what kubelet wants is touched for the policy meanwhile.
        """
        for volume in self.refusals.keys() - set(present):
            del self.refusals[volume]
        refused = {volume: error for volume, error in self.refusals.items() if wants.get(volume) is None}
        by_kubelet = {
            # Not what the policy wants either: mounted for it, the volume could never be taken back.
            volume: None if record.is_leaving else _settle(wants.get(volume), make_want(record, self.resolve))
            for volume, record in self._records.items()
        }
        return {**wants, **refused, **self._faults, **by_kubelet}


def make_want(record: StagedRecord, resolve: Callable[[str], str]) -> Wanted:
    """Return what is wanted of a volume that kubelet staged; ``resolve`` finds where kubelet's paths lead."""
    volume = record.volume_id
    if record.is_block:
        return Wanted(volume, name=volume, block=WantedBlock(), is_kubelets=True)
    is_read_only = record.access.is_read_only or "ro" in record.mount_flags
    may_format = record.is_format_allowed and not record.is_copy and not is_read_only
    return Wanted(
        volume,
        name=volume,
        filesystem=WantedFilesystem(
            record.fs_type,
            FormatRule.IF_BLANK if may_format else FormatRule.NEVER,
            mkfs_options=record.mkfs_options,
            partition=record.partition,
        ),
        mount=WantedMount(resolve(record.staging_path), choose_options(record, is_read_only=is_read_only)),
        grow=True,
        is_kubelets=True,
    )


_UNTOUCHED = {FsType.EXT4: "noload", FsType.XFS: "norecovery", FsType.BTRFS: "rescue=nologreplay"}
"""What keeps a filesystem's log from being replayed, which writes even where it is mounted read-only."""


def choose_options(record: StagedRecord, *, is_read_only: bool) -> tuple[str, ...]:
    """Return the options to mount a volume of kubelet's with.

    Those of its PersistentVolume; an error of ext4 makes it read-only, whoever made it; and what is staged
    read-only, as a copy that a pod looks into, is not written to at all.
    """
    chosen = {option for option in record.mount_flags if option not in {"defaults", "rw"}}
    if record.fs_type is FsType.EXT4 and not any(option.startswith("errors=") for option in chosen):
        chosen.add("errors=remount-ro")
    if is_read_only:
        chosen |= {"ro", _UNTOUCHED[record.fs_type]}
    return tuple(sorted(chosen))


def _settle(by_policy: Want, by_kubelet: Wanted) -> Want:
    """Return whose want holds."""
    named = by_policy.wanted if isinstance(by_policy, Released) else by_policy
    if isinstance(named, AgentError):
        return named
    if named is None:
        return by_kubelet
    return RefusedError(
        f"{by_kubelet.volume_id} is meant by the policy entry {named.name!r} and by a volume of Kubernetes.",
        hint="Keep it out of the one or the other: a volume has one user. It is left as it is meanwhile.",
        reason=Reason.SEVERAL_ENTRIES,
        retryable=False,
    )
