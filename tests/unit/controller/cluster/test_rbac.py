from __future__ import annotations

from pathlib import Path

import yaml
from lightkube.core.resource import Resource, api_info

from agent.controller.cluster import objects

RBAC = Path(__file__).parents[4] / "docs/controller-rbac.yaml"
# What is written whole, in types of lightkube's own.
WRITTEN = {("coordination.k8s.io", "leases", verb) for verb in ("get", "create", "update")} | {
    ("", "events", "create")
}

KINDS: tuple[type[Resource], ...] = (
    objects.Node,
    objects.CsiNode,
    objects.VolumeAttachment,
    objects.PersistentVolume,
    objects.VolumeSnapshotContent,
)


def test_no_more_is_allowed_than_is_asked_for() -> None:
    """Each verb that a type of the controller's has is allowed, and no other: the client refuses those.

    That these are enough is what the tests with the real API server show, whose controller has no more.
    """
    asked = {(info.resource.group, info.plural, verb) for info in map(api_info, KINDS) for verb in info.verbs}
    allowed = {
        (group, resource, verb)
        for manifest in yaml.safe_load_all(RBAC.read_text("utf-8"))
        for rule in manifest.get("rules", [])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed == asked | WRITTEN
