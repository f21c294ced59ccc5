"""Writes a claim and its PersistentVolume anew for another driver, with the same volume. Pure."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping
from typing import Any

from agent.controller.making.choose_zone import NAME_KEYS, ZONE_KEY
from agent.controller.migration.journal import ANNOTATION, Journal, write_journal
from agent.controller.migration.objects import Object, name_of, read, read_list, uid_of

RETAIN = "Retain"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
MADE_BY = "storage.kubernetes.io/csiProvisionerIdentity"
CLASS_MARK = "volume.beta.kubernetes.io/storage-class"
"""By which claims and volumes named their class once; it goes before what the object says."""
_OF_BINDING = (
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "pv.kubernetes.io/migrated-to",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/storage-resizer",
    "volume.kubernetes.io/selected-node",
)
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
"""What a manifest said that kubectl has applied: of a PersistentVolume it names the driver."""
_KEPT_OF_CLAIM = ("accessModes", "resources", "storageClassName", "volumeMode")
_SPACE = uuid.UUID("5f0c9c1e-6d0b-4f0e-9b53-0c6b1f7a2d11")


def name_volume(old: Object, target: str) -> str:
    """Return what the new PersistentVolume is called: the same whenever it is asked, and nobody else's."""
    return f"pvc-{uuid.uuid5(_SPACE, f'{uid_of(old)} {target}')}"


def make_claim(claim: Object, old: Object, target: str) -> dict[str, Any]:
    """Return the new claim: name, labels and annotations, size, modes and class are the old one's.

    Where the old one names no class, the new one names its volume's, if only as none: else it would be given
    the cluster's default class, and never that volume.
    It has no owner. What Kubernetes takes away with an owner would take the volume with it, and a StatefulSet
    that owns its claims says so again by itself.
    """
    metadata: dict[str, Any] = {"name": name_of(claim), "namespace": read(claim, "metadata", "namespace")}
    metadata |= _keep_marks(claim, _OF_BINDING)
    spec = {
        member: copy.deepcopy(claim["spec"][member])
        for member in _KEPT_OF_CLAIM
        if claim["spec"].get(member) is not None
    }
    if CLASS_MARK not in metadata["annotations"]:
        spec.setdefault("storageClassName", name_class(old))
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": {**spec, "volumeName": name_volume(old, target)},
    }


def name_class(thing: Object) -> str:
    """Return the StorageClass of a claim or a PersistentVolume; empty where it has none."""
    marked = read(thing, "metadata", "annotations", CLASS_MARK)
    return str(read(thing, "spec", "storageClassName") or "" if marked is None else marked)


def make_journal(claim: Object, old: Object, target: str) -> Journal:
    """Return the record that a migration begins with."""
    return Journal(
        origin=old["spec"]["csi"]["driver"],
        target=target,
        old_name=name_of(old),
        old_uid=uid_of(old),
        claim_uid=uid_of(claim),
        reclaim_policy=old["spec"]["persistentVolumeReclaimPolicy"],
        claim=make_claim(claim, old, target),
    )


def make_volume(claim: Object, old: Object, target: str) -> dict[str, Any]:
    """Return the new PersistentVolume, for the claim of that name, which deletes nothing; with the record."""
    journal = make_journal(claim, old, target)
    source = copy.deepcopy(old["spec"]["csi"])
    source["driver"] = target
    attributes = {
        key: value for key, value in (source.get("volumeAttributes") or {}).items() if key != MADE_BY
    }
    source["volumeAttributes"] = attributes
    spec = copy.deepcopy(dict(old["spec"]))
    spec.pop("volumeAttributesClassName", None)
    spec |= {
        "csi": source,
        "persistentVolumeReclaimPolicy": RETAIN,
        "claimRef": {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "namespace": journal.namespace,
            "name": journal.claim_name,
        },
    }
    if terms := read_list(old, "spec", "nodeAffinity", "required", "nodeSelectorTerms"):
        spec["nodeAffinity"] = {"required": {"nodeSelectorTerms": [_translate_term(term) for term in terms]}}
    marks = _keep_marks(old, (*_OF_BINDING, _APPLIED, ANNOTATION))
    marks["annotations"] |= {PROVISIONED_BY: target, ANNOTATION: write_journal(journal)}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name_volume(old, target), **marks},
        "spec": spec,
    }


def list_foreign_keys(old: Object) -> list[str]:
    """Return where a volume must be by labels that only its driver's nodes have, and that say no zone."""
    driver = str(read(old, "spec", "csi", "driver"))
    terms = read_list(old, "spec", "nodeAffinity", "required", "nodeSelectorTerms")
    keys = {each["key"] for term in terms for each in term.get("matchExpressions") or ()}
    return sorted(key for key in keys if key.startswith(f"topology.{driver}/") and key not in NAME_KEYS)


def list_losses(claim: Object) -> list[str]:
    """Return, in sentences, what of a claim its successor does not have."""
    losses = []
    if name := read(claim, "spec", "volumeAttributesClassName"):
        losses.append(f"VolumeAttributesClass {name} is the old driver's: the volume stays as fast as it is.")
    if source := read(claim, "spec", "dataSource") or read(claim, "spec", "dataSourceRef"):
        losses.append(f"What it was made from, {source['kind']} {source['name']}, is not said any more.")
    if owners := [f"{one['kind']} {one['name']}" for one in read_list(claim, "metadata", "ownerReferences")]:
        losses.append(
            f"It does not go with {', '.join(owners)} any more; a StatefulSet says so again itself."
        )
    return losses


def _keep_marks(thing: Object, dropped: tuple[str, ...]) -> dict[str, dict[str, str]]:
    annotations = read(thing, "metadata", "annotations") or {}
    return {
        "labels": dict(read(thing, "metadata", "labels") or {}),
        "annotations": {key: value for key, value in annotations.items() if key not in dropped},
    }


def _translate_term(term: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a volume can be used, its zone by the label that every node has."""
    translated: list[Any] = []
    for each in term.get("matchExpressions") or ():
        wanted = {**each, "key": ZONE_KEY} if each["key"] in NAME_KEYS else each
        if wanted not in translated:
            translated.append(wanted)
    return {**term, "matchExpressions": translated}
