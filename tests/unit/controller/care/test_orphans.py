from __future__ import annotations

import pytest

from agent.cloud.aws.models import CloudAttachment, CloudVolume
from agent.controller.care.orphans import Orphan, find_orphans
from agent.controller.cluster.objects import (
    AttachmentSource,
    AttachmentSpec,
    Metadata,
    PersistentVolume,
    PersistentVolumeSpec,
    VolumeAttachment,
    VolumeHandle,
)
from agent.controller.name_tags import write_name
from agent.core.model import parse_volume_id

NODE = "i-0123456789abcdef0"
VOLUME = parse_volume_id("vol-0123456789abcdef0")
ODD = "größe?"
TAG = write_name(ODD)
LEFT = Orphan("volume", VOLUME, "pv-1")


def make_volume(
    *, name: str = "pv-1", on: str | None = NODE, state: str = "in-use", mark: str = "other"
) -> CloudVolume:
    attachments = () if on is None else (CloudAttachment("attached", on),)
    tags = (("CSIVolumeName", name), (f"kubernetes.io/cluster/{mark}", "owned"))
    return CloudVolume(VOLUME, state, 1, "gp3", "z", tags=tags, attachments=attachments)


def make_known(name: str, handle: str = "vol-0fedcba9876543210") -> PersistentVolume:
    csi = VolumeHandle(driver="ebs.csi.aws.com", volume_handle=handle)
    return PersistentVolume(metadata=Metadata(name=name), spec=PersistentVolumeSpec(csi=csi))


@pytest.mark.parametrize(
    ("volume", "known", "expected"),
    [
        pytest.param(make_volume(), [], {LEFT}, id="attached to a node of ours"),
        pytest.param(make_volume(on=None, mark="mine"), [], {LEFT}, id="carries our ID"),
        pytest.param(make_volume(on=None), [], set(), id="another cluster's"),
        pytest.param(make_volume(on="i-0fedcba9876543210"), [], set(), id="on another cluster's node"),
        pytest.param(make_volume(), [make_known("pv-1")], set(), id="known by its name"),
        pytest.param(make_volume(), [make_known("static", VOLUME)], set(), id="known by its handle"),
        pytest.param(make_volume(name=TAG), [make_known(ODD)], set(), id="known by its digest"),
        pytest.param(make_volume(state="deleting"), [], set(), id="being deleted"),
    ],
)
def test_a_volume_without_its_persistent_volume_is_left(
    volume: CloudVolume, known: list[PersistentVolume], expected: set[Orphan]
) -> None:
    """It is this cluster's by the node that has it, or by the ID that it carries; nothing else tells."""
    assert find_orphans([volume], [], known, {NODE}, "mine") == expected


def test_without_an_id_only_attached_volumes_are_known_to_be_ours() -> None:
    """A cluster that has no ID takes no volume for its own that carries one, or none."""
    assert find_orphans([make_volume(on=None, mark="None")], [], [], {NODE}, None) == set()


def test_an_attachment_without_its_persistent_volume_is_left() -> None:
    """One whose volume is known is not."""
    spec = AttachmentSpec(attacher="d", node_name="n", source=AttachmentSource(persistent_volume_name="pv-1"))
    attachment = VolumeAttachment(metadata=Metadata(name="va"), spec=spec)
    assert find_orphans([], [attachment], [], (), None) == {Orphan("VolumeAttachment", "va", "pv-1")}
    assert find_orphans([], [attachment], [make_known("pv-1")], (), None) == set()
