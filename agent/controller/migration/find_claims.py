"""Finds the claims that are to be moved, and what the cluster has to have before."""

from __future__ import annotations

from collections.abc import Sequence

from agent.controller.cluster.api import NOT_FOUND, ClusterError
from agent.controller.migration.cluster import Readable
from agent.controller.migration.journal import UnreadableRecordError, read_journal
from agent.controller.migration.judge import refuse
from agent.controller.migration.objects import (
    CsiDriver,
    CsiNode,
    Object,
    PersistentVolume,
    PersistentVolumeClaim,
    VolumeSnapshotClass,
    name_of,
    read,
    read_list,
)
from agent.controller.migration.rewrite import name_volume
from agent.controller.migration.seen import Subject
from agent.core.suggestions import find_meant, hint_at_known

IS_DEFAULT = "snapshot.storage.kubernetes.io/is-default-class"


async def find_subjects(
    cluster: Readable, origin: str, target: str, namespace: str | None, names: Sequence[str] | None
) -> list[Subject]:
    """Return the claims named, or all of the origin's that are bound or on their way to the target.

    ``namespace``: where they are; None: everywhere, with ``names`` None too. One whose record cannot be
    read is among them, by the claim that its PersistentVolume is for. Raises AgentError.
    """
    _, volumes = await cluster.list_all(PersistentVolume)
    under_way: dict[tuple[str, str], Subject] = {}
    for volume in volumes:
        subject = _find_under_way(volume)
        if subject is None:
            continue
        key = (subject.namespace, subject.claim)
        if key in under_way:
            raise refuse(
                f"Claim {'/'.join(key)} has two records: {under_way[key].new} and {name_of(volume)}.",
                "See which PersistentVolume it is to have, and delete the other, which keeps its volume.",
            )
        under_way[key] = subject
    if names is not None:
        assert namespace is not None  # noqa: S101 -- claims are named in one
        return [
            under_way.get((namespace, name)) or await _look_up(cluster, volumes, target, namespace, name)
            for name in dict.fromkeys(names)
        ]
    found = {key: each for key, each in under_way.items() if namespace in {None, key[0]}}
    for volume in volumes:
        key = _read_claim(volume)
        is_bound = read(volume, "status", "phase") == "Bound"
        if is_bound and read(volume, "spec", "csi", "driver") == origin and namespace in {None, key[0]}:
            found.setdefault(key, Subject(*key, old=name_of(volume), new=name_volume(volume, target)))
    return [found[key] for key in sorted(found)]


def _find_under_way(volume: Object) -> Subject | None:
    """Return the claim that a PersistentVolume is made for by a migration; None where it is not."""
    try:
        journal = read_journal(volume)
    except UnreadableRecordError:
        if not read(volume, "spec", "claimRef", "name"):  # it may be any claim's
            raise
        return Subject(*_read_claim(volume), old="", new=name_of(volume))
    if journal is None:
        return None
    return Subject(journal.namespace, journal.claim_name, old=journal.old_name, new=name_of(volume))


def _read_claim(volume: Object) -> tuple[str, str]:
    reference = read(volume, "spec", "claimRef") or {}
    return str(reference.get("namespace")), str(reference.get("name"))


async def _look_up(
    cluster: Readable, volumes: Sequence[Object], target: str, namespace: str, name: str
) -> Subject:
    claim = await cluster.find_in(PersistentVolumeClaim, name, namespace)
    volume_name = read(claim, "spec", "volumeName")
    volume = next((each for each in volumes if volume_name and name_of(each) == volume_name), None)
    if volume is None:
        references = (read(each, "spec", "claimRef") or {} for each in volumes)
        names = [str(one.get("name")) for one in references if one.get("namespace") == namespace]
        meant = find_meant(name, names)
        return Subject(namespace, name, old="", new="", meant=meant)
    return Subject(namespace, name, old=name_of(volume), new=name_volume(volume, target))


async def check_driver(cluster: Readable, target: str) -> None:
    """Raise RefusedError unless the cluster has the driver, and a node that serves it."""
    if await cluster.find(CsiDriver, target) is None:
        raise refuse(
            f"The cluster has no CSIDriver {target}: nobody would attach the volumes.",
            "Install its controller first: docs/chart.md.",
        )
    _, nodes = await cluster.list_all(CsiNode)
    if not any(driver["name"] == target for node in nodes for driver in read_list(node, "spec", "drivers")):
        raise refuse(
            f"No node has driver {target}: no pod could use the claims.",
            "kubectl get csinodes -o yaml shows those of each node; docs/kubernetes.md has how one gets it.",
        )


async def choose_snapshot_class(cluster: Readable, origin: str, named: str | None) -> str | None:
    """Return the class named, or the only one of the driver, or its default; else RefusedError.

    None: the cluster does not know what a VolumeSnapshot is, and none is named.
    """
    way_out = "Say --ec2-snapshot, which has EC2 take it; or --no-snapshot."
    try:
        _, classes = await cluster.list_all(VolumeSnapshotClass)
    except ClusterError as error:
        if error.status != NOT_FOUND:
            raise
        if named is None:
            return None
        raise refuse("The cluster has no VolumeSnapshots: its types are not there.", way_out) from error
    of_driver = [each for each in classes if each.get("driver") == origin]
    if named is not None:
        if named not in map(name_of, of_driver):
            known = hint_at_known(named, map(name_of, of_driver), "It has")
            raise refuse(f"Driver {origin} has no VolumeSnapshotClass {named}.", f"{known} {way_out}")
        return named
    defaults = [each for each in of_driver if read(each, "metadata", "annotations", IS_DEFAULT) == "true"]
    chosen = defaults if len(defaults) == 1 else of_driver
    if not chosen:
        raise refuse(f"Driver {origin} has no VolumeSnapshotClass.", f"Make one, or: {way_out}")
    if len(chosen) > 1:
        raise refuse(
            f"Driver {origin} has several VolumeSnapshotClasses: {', '.join(map(name_of, chosen))}.",
            "Name one with --snapshot-class.",
        )
    return name_of(chosen[0])
