from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.controller.calls import (
    CopySource,
    CreateCall,
    ModifyCall,
    NodeId,
    NoSuchThingError,
    Performance,
    SizeError,
    SizeRange,
    SnapshotLock,
)
from agent.controller.service.parse_calls import (
    parse_attach,
    parse_create,
    parse_expand,
    parse_modify,
    parse_snapshot,
    parse_validate,
)
from agent.core.errors import AgentError, InvalidValueError
from agent.csi.wire import controller_pb2 as wire
from agent.csi.wire.csi_pb2 import CapacityRange, Topology, VolumeCapability
from tests.unit.controller.service.requests import (
    METADATA,
    NODE,
    SNAPSHOT,
    VOLUME,
    create,
    from_snapshot,
    from_volume,
)
from tests.unit.csi.service.requests import block, mount

GIB = 1 << 30


def test_a_class_is_read_whatever_the_case_of_its_keys() -> None:
    """All that AWS's driver takes arrives: speed, key, filesystem, tags and where the claim is from."""
    request = create(
        {
            "TYPE": "io2",
            "iopspergb": "50",
            "allowAutoIOPSPerGBIncrease": "true",
            "encrypted": "true",
            "kmsKeyId": "arn:aws:kms:us-east-1:111122223333:key/1-2",
            "blockSize": "4096",
            "ext4BigAlloc": "true",
            "ext4ClusterSize": "16384",
            "blockExpress": "true",
            "fstype": "xfs",
            "volumeInitializationRate": "200",
            "tagSpecification_1": 'team={{ .PVCNamespace | field "-" 1 }}',
            "tagSpecification_2": "empty=",
            **METADATA,
        },
        required=10 * GIB,
        limit=20 * GIB,
    )
    assert parse_create(request) == CreateCall(
        name="pvc-1",
        size=SizeRange(10 * GIB, 20 * GIB),
        performance=Performance(type="io2", iops_per_gib=50, may_raise_iops=True),
        is_encrypted=True,
        kms_key_id="arn:aws:kms:us-east-1:111122223333:key/1-2",
        tags=(
            ("ebs.csi.aws.com/IOPSPerGb", "50"),
            ("empty", ""),
            ("kubernetes.io/created-for/pv/name", "pvc-1"),
            ("kubernetes.io/created-for/pvc/name", "claim"),
            ("kubernetes.io/created-for/pvc/namespace", "ns-prod-abcdef"),
            ("team", "prod"),
        ),
        context=(("blocksize", "4096"), ("ext4bigalloc", "true"), ("ext4clustersize", "16384")),
    )


def test_a_volume_attributes_class_wins() -> None:
    """What both classes say is what the claim's own class says, tags included."""
    request = create(
        {"type": "gp3", "iopsPerGB": "5", "throughput": "200", "tagSpecification_1": "a=1"},
        mutable={"volumeType": "io2", "iops": "4000", "tagSpecification_9": "a=2"},
    )
    call = parse_create(request)
    assert call.performance == Performance(type="io2", iops=4000, throughput_mib=200)
    assert call.tags == (("a", "2"),)


@pytest.mark.parametrize(
    ("source", "copied", "said"),
    [
        (from_snapshot(), CopySource(snapshot_id=SNAPSHOT), SNAPSHOT),
        (from_volume(), CopySource(volume_id=VOLUME), VOLUME),  # type: ignore[arg-type]
    ],
)
def test_a_node_is_told_of_a_copy(source: wire.VolumeContentSource, copied: CopySource, said: str) -> None:
    """A copy says so in its context, so that no node ever formats it; its rate is for snapshots alone."""
    call = parse_create(create({"volumeInitializationRate": "300"}, source=source))
    assert call.source == copied
    assert call.context == (("ebs-agent/source", said),)
    assert call.initialization_rate_mib == (300 if copied.snapshot_id else None)


def test_topologies_keep_their_order() -> None:
    """What is preferred is tried in the order that the scheduler gives, each place once."""
    request = create()
    for zone in ("b", "a", "b"):
        request.accessibility_requirements.preferred.append(Topology(segments={"z": zone, "y": "1"}))
    assert parse_create(request).preferred == ((("y", "1"), ("z", "b")), (("y", "1"), ("z", "a")))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"iop": "3000"}, "'iop' is not known.*Known are type, iops, iopsPerGB"),
        ({"TagSpecification_1": "a=b"}, "'TagSpecification_1' is not known"),
        ({"csi.storage.k8s.io/other": "x"}, "is not known"),
        ({"iops": "100", "iopsPerGB": "5"}, "both set"),
        ({"iops": "-1"}, "iops cannot be '-1'"),
        ({"iops": "٣"}, "iops cannot be"),
        ({"iops": "9" * 400}, "iops cannot be"),
        ({"throughput": "0x10"}, "throughput cannot be '0x10'"),
        ({"type": "gp4"}, "type cannot be 'gp4'.*gp3"),
        ({"type": "gp3", "Type": "gp2"}, "type is given twice"),
        ({"encrypted": "True"}, "encrypted cannot be 'True'"),
        ({"kmsKeyId": "a b"}, "kmsKeyId cannot be"),
        ({"volumeInitializationRate": "99"}, "from 100 to 300"),
        ({"blockSize": "4096 -F"}, "'blocksize'.*cannot be '4096 -F'"),
        ({"inodeSize": "--help"}, "'inodesize'"),
        ({"ext4ClusterSize": "16384"}, "needs ext4bigalloc"),
        ({"ext4BigAlloc": "yes"}, "'ext4bigalloc'"),
        ({"ebs-agent/format": "always"}, "ebs-agent/format"),
        ({"tagSpecification_1": "novalue"}, "is no tag"),
        ({"tagSpecification_1": "=x"}, "without a key"),
        ({"tagSpecification_1": "aws:x=y"}, "reserved"),
        ({"tagSpecification_1": "CSIVolumeName=y"}, "reserved"),
        ({"tagSpecification_1": "kubernetes.io/cluster/x=owned"}, "reserved"),
        ({"tagSpecification_1": "ebs.csi.aws.com/cluster=true"}, "reserved"),
        ({"tagSpecification_1": "ebs-agent:made-by=me"}, "reserved"),
        ({"tagSpecification_1": "k=" + "v" * 257}, "too long"),
        ({"tagSpecification_1": "k" * 129 + "=v"}, "too long"),
        ({"tagSpecification_1": "k=a\nb"}, "cannot be printed"),
        ({"tagSpecification_1": "k={{ .PVCName }}"}, "tagSpecification_1.*.PVCName is not known"),
        ({f"tagSpecification_{n}": f"k{n}=v" for n in range(41)}, "asks for 41 tags"),
    ],
)
def test_a_class_that_cannot_be_meant_is_refused_when_a_claim_is_made(
    parameters: Mapping[str, str], words: str
) -> None:
    """Each wrong parameter is named, with the way out, before anything is made."""
    with pytest.raises(InvalidValueError) as refused:
        parse_create(create(parameters))
    assert re.search(words, str(refused.value), re.DOTALL)


@pytest.mark.parametrize(
    ("use", "kind", "is_allowed"),
    [
        (mount(access="SINGLE_NODE_WRITER"), "gp3", True),
        (mount(access="SINGLE_NODE_READER_ONLY"), "gp3", True),
        (mount(access="SINGLE_NODE_SINGLE_WRITER"), "gp3", True),
        (mount(access="SINGLE_NODE_MULTI_WRITER"), "gp3", True),
        (block(access="SINGLE_NODE_WRITER"), "gp3", True),
        (block(access="MULTI_NODE_MULTI_WRITER"), "io2", True),
        (block(access="MULTI_NODE_MULTI_WRITER"), "gp3", False),
        (mount(access="MULTI_NODE_MULTI_WRITER"), "io2", False),
        (mount(access="MULTI_NODE_READER_ONLY"), "gp3", False),
        (block(access="MULTI_NODE_SINGLE_WRITER"), "io2", False),
        (mount(access="UNKNOWN"), "gp3", False),
        (mount("ntfs"), "gp3", False),
        (mount("ext4", "noatime,dev=/dev/sda"), "gp3", False),
        (VolumeCapability(), "gp3", False),
    ],
)
def test_uses_that_a_volume_can_have(use: VolumeCapability, kind: str, *, is_allowed: bool) -> None:
    """One node may have it in any way; several only as a block device with multi-attach."""
    request = create({"type": kind}, uses=[use])
    if is_allowed:
        call = parse_create(request)
        assert call.is_multi_attach == (kind == "io2")
    else:
        with pytest.raises(InvalidValueError):
            parse_create(request)


@pytest.mark.parametrize(
    ("required", "limit", "error"),
    [
        (-1, 0, InvalidValueError),
        (0, -1, InvalidValueError),
        (2, 1, InvalidValueError),
        (2**63 - 1, 0, SizeError),
        (65_537 * GIB, 0, SizeError),
    ],
)
def test_hostile_sizes(required: int, limit: int, error: type[AgentError]) -> None:
    """Sizes that cannot be meant are told from those that no volume has."""
    with pytest.raises(error) as refused:
        parse_create(create(required=required, limit=limit))
    assert isinstance(refused.value, SizeError) == (error is SizeError)


def test_no_size_is_any_size() -> None:
    """Zero is no bound."""
    assert parse_create(create(required=0)).size == SizeRange()


@given(st.text(min_size=1, max_size=2000))
def test_names_of_any_length_and_script(name: str) -> None:
    """A name is kept to the letter: the volume is found again by it."""
    assert parse_create(create(name=name)).name == name


def test_what_cannot_be_there_is_not_found() -> None:
    """IDs that nothing can have are NOT_FOUND, and those that are missing a mistake."""
    with pytest.raises(NoSuchThingError, match="No snapshot"):
        parse_create(create(source=from_snapshot("snap-x")))
    with pytest.raises(NoSuchThingError, match="No volume"):
        parse_create(create(source=from_volume("vol-x")))
    publish = wire.ControllerPublishVolumeRequest(
        volume_id=VOLUME, node_id="i-../../x", volume_capability=mount()
    )
    with pytest.raises(NoSuchThingError, match="no node"):
        parse_attach(publish)
    with pytest.raises(InvalidValueError, match="node_id is missing"):
        parse_attach(wire.ControllerPublishVolumeRequest(volume_id=VOLUME, volume_capability=mount()))
    with pytest.raises(InvalidValueError, match="volume_capability"):
        parse_attach(wire.ControllerPublishVolumeRequest(volume_id=VOLUME, node_id=NODE))
    with pytest.raises(InvalidValueError, match="name is missing"):
        parse_create(create(name=""))


def test_an_attach_names_the_node_as_its_csinode_does() -> None:
    """HyperPod's nodes and ordinary instances; several nodes only where the mode says so."""
    request = wire.ControllerPublishVolumeRequest(
        volume_id=VOLUME, node_id=NODE, volume_capability=block("MULTI_NODE_MULTI_WRITER"), readonly=True
    )
    call = parse_attach(request)
    assert call.node == NodeId("i-0123456789abcdef0", "abc123def456")
    assert (call.is_multi_node, call.is_read_only) == (True, True)


@pytest.mark.parametrize(("said", "is_first"), [("true", True), ("false", False), ("", False), (None, False)])
def test_an_attach_may_wait_for_the_content(said: str | None, *, is_first: bool) -> None:
    """As the volume's context has it, which the claim's class wrote there, or AWS's driver."""
    context = {} if said is None else {"blockattachuntilinitialized": said}
    request = wire.ControllerPublishVolumeRequest(
        volume_id=VOLUME, node_id=NODE, volume_capability=mount(), volume_context=context
    )
    assert parse_attach(request).is_initialized_first is is_first
    if said:
        made = parse_create(create({"blockAttachUntilInitialized": said}))
        assert dict(made.context)["blockattachuntilinitialized"] == said


def test_a_switch_is_true_or_false() -> None:
    """AWS's driver takes all else for no, and the pod would start on an empty promise."""
    with pytest.raises(InvalidValueError, match="blockAttachUntilInitialized cannot be 'True'"):
        parse_create(create({"blockAttachUntilInitialized": "True"}))


def test_an_expansion_needs_a_size() -> None:
    """A block volume's filesystem is nobody's to grow."""
    request = wire.ControllerExpandVolumeRequest(volume_id=VOLUME, volume_capability=block())
    with pytest.raises(InvalidValueError, match="capacity_range"):
        parse_expand(request)
    request.capacity_range.CopyFrom(CapacityRange(required_bytes=GIB))
    assert parse_expand(request).is_block


def test_a_modification_sets_and_removes_tags() -> None:
    """A class changes speed and tags; what it may not remove is refused as what it may not set."""
    said = {"type": "gp3", "iops": "4000", "tagSpecification_1": "a=b", "tagDeletion_1": "c", **METADATA}
    request = wire.ControllerModifyVolumeRequest(volume_id=VOLUME, mutable_parameters=said)
    assert parse_modify(request) == ModifyCall(
        VOLUME,  # type: ignore[arg-type]
        Performance(type="gp3", iops=4000),
        (("a", "b"),),
        ("c",),
    )
    request.mutable_parameters["tagDeletion_2"] = "CSIVolumeName"
    with pytest.raises(InvalidValueError, match="reserved"):
        parse_modify(request)
    with pytest.raises(InvalidValueError, match="'encrypted' is not known"):
        parse_modify(
            wire.ControllerModifyVolumeRequest(volume_id=VOLUME, mutable_parameters={"encrypted": "true"})
        )


def test_a_snapshot_class_is_read() -> None:
    """Zones, a lock with one end, and tags with the snapshot's own names."""
    request = wire.CreateSnapshotRequest(
        source_volume_id=VOLUME,
        name="snapshot-1",
        parameters={
            "fastSnapshotRestoreAvailabilityZones": "us-east-1a, us-east-1b",
            "lockMode": "governance",
            "lockDuration": "7",
            "tagSpecification_1": "of={{ .VolumeSnapshotName }}",
            "csi.storage.k8s.io/volumesnapshot/name": "nightly",
        },
    )
    call = parse_snapshot(request)
    assert call.fast_restore_zones == ("us-east-1a", "us-east-1b")
    assert call.lock == SnapshotLock("governance", duration_days=7)
    assert call.tags == (("kubernetes.io/created-for/volumesnapshot/name", "nightly"), ("of", "nightly"))


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"lockMode": "strong"}, "governance or compliance"),
        ({"lockDuration": "7"}, "lockMode is not"),
        ({"lockMode": "governance"}, "one end"),
        (
            {"lockMode": "governance", "lockDuration": "7", "lockExpirationDate": "2027-01-31T12:00:00Z"},
            "one end",
        ),
        ({"lockMode": "governance", "lockExpirationDate": "tomorrow"}, "lockExpirationDate cannot"),
        (
            {"lockMode": "governance", "lockDuration": "7", "lockCoolOffPeriod": "5"},
            "for lockMode compliance",
        ),
        ({"outpostArn": "arn:x"}, "'outpostArn' is not known"),
        ({"fastSnapshotRestoreAvailabilityZones": "us east"}, "cannot be 'us east'"),
    ],
)
def test_a_snapshot_class_that_cannot_be_meant(parameters: Mapping[str, str], words: str) -> None:
    """Each wrong parameter is named before a snapshot is taken."""
    request = wire.CreateSnapshotRequest(source_volume_id=VOLUME, name="s", parameters=parameters)
    with pytest.raises(InvalidValueError) as refused:
        parse_snapshot(request)
    assert words in str(refused.value)


def test_a_question_about_a_use_is_the_volumes_to_answer() -> None:
    """Modes that no volume has are asked about, too: the answer is a sentence, not an error."""
    request = wire.ValidateVolumeCapabilitiesRequest(
        volume_id=VOLUME, volume_capabilities=[block(), mount(access="MULTI_NODE_SINGLE_WRITER")]
    )
    request.volume_capabilities[1].access_mode.mode = 99  # type: ignore[assignment]
    assert parse_validate(request).modes == (("SINGLE_NODE_WRITER", True), ("UNKNOWN", False))


@pytest.mark.parametrize("follows", ["true", "false"])
def test_the_ratio_of_a_class_is_kept_with_the_volume(follows: str) -> None:
    """An expansion comes without the class, and is to follow it."""
    said = {"iopsPerGB": "50", "allowAutoIOPSIncreaseOnModify": follows, "type": "io2"}
    kept = {
        ("ebs.csi.aws.com/IOPSPerGb", "50"),
        ("ebs.csi.aws.com/AllowAutoIOPSIncreaseOnModify", follows),
    }
    asked = wire.ControllerModifyVolumeRequest(volume_id="vol-0123456789abcdef0", mutable_parameters=said)
    assert set(parse_modify(asked).tags) == kept
    assert kept <= set(parse_create(create(said)).tags)
    assert parse_modify(asked).performance.follows_size is (follows == "true")
