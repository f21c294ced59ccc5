from __future__ import annotations

from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.validate import ParamValidator

from agent.cloud.aws import calls, instance_types, making_calls, snapshot_models, volume_status, zones
from agent.cloud.aws.all_calls import ALL_CALLS
from agent.cloud.aws.call import Call, Change
from agent.cloud.aws.iam_statements import STATEMENTS
from agent.cloud.view.change_events import EVENTS, SILENT
from agent.core.model import VolumeId
from agent.report.board.events import EventName

VOLUME = VolumeId("vol-0123456789abcdef0")
INSTANCE = "i-0123456789abcdef0"
ARN = "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz"
SNAPSHOT = "snap-0123456789abcdef0"
TAGS = (("a", "b"),)

EXAMPLES: tuple[Call[Any], ...] = (
    calls.AttachClusterNodeVolume(ARN, INSTANCE, VOLUME),
    calls.AttachVolume(INSTANCE, VOLUME, "/dev/sdf"),
    making_calls.CopyVolumes(VOLUME, "token", 5, "gp3", TAGS, 3000, 125, True, "alias/k", True),
    making_calls.CopyVolumes(VOLUME, "token", None, "gp3", (), is_dry_run=True),
    calls.CreateSnapshot(VOLUME, "for a test", TAGS),
    calls.CreateSnapshot(VOLUME, "for a test", TAGS, is_dry_run=True),
    calls.CreateTags(VOLUME, TAGS),
    making_calls.CreateVolume(
        "token", "us-west-2a", 5, "gp3", TAGS, 3000, 125, True, "alias/k", SNAPSHOT, 100, True
    ),
    making_calls.CreateVolume("token", "us-west-2a", None, "gp3", (), snapshot_id=SNAPSHOT),
    calls.DeleteSnapshot(SNAPSHOT),
    calls.DeleteVolume(VOLUME),
    calls.DeleteVolume(VOLUME, is_dry_run=True),
    calls.DeleteTags(VOLUME, ("a", "b")),
    calls.DescribeClusterNode(ARN, INSTANCE),
    calls.DescribeInstances((INSTANCE,)),
    calls.DescribeSnapshots((("tag:a", ("b",)),)),
    instance_types.DescribeInstanceTypes(("p5.48xlarge",)),
    zones.DescribeAvailabilityZones(),
    snapshot_models.DescribeLockedSnapshots((SNAPSHOT,)),
    volume_status.DescribeVolumeStatus((VOLUME,)),
    calls.DescribeVolumes((("volume-id", (VOLUME,)),)),
    calls.DescribeVolumesModifications((VOLUME,)),
    calls.DetachClusterNodeVolume(ARN, INSTANCE, VOLUME),
    calls.DetachVolume(INSTANCE, VOLUME),
    calls.DisableFastSnapshotRestores(SNAPSHOT, ("us-west-2a",)),
    calls.EnableFastSnapshotRestores(SNAPSHOT, ("us-west-2a",)),
    calls.GetCallerIdentity(),
    calls.ListClusterNodes(ARN),
    calls.LockSnapshot(SNAPSHOT, "governance", 7),
    calls.LockSnapshot(SNAPSHOT, "compliance", None, "2027-01-01T00:00:00+00:00", 24),
    calls.ModifyVolume(VOLUME, 6, "io2", 5000, None),
)
MODELS = {
    name: ServiceModel(Loader().load_service_model(name, "service-2"), name)
    for name in ("ec2", "sagemaker", "sts")
}


@pytest.mark.parametrize("call", EXAMPLES, ids=lambda call: call.operation)
def test_parameters_are_those_of_the_service(call: Call[Any]) -> None:
    """Every call's names, types and required parameters are the service model's."""
    operation = MODELS[call.service].operation_model(call.operation)
    assert operation.input_shape is not None
    report = ParamValidator().validate(call.parameters(), operation.input_shape)
    assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("call", ALL_CALLS, ids=lambda call: call.operation)
def test_pages_are_those_of_the_service(call: type[Call[Any]]) -> None:
    """A call read in pages has a NextToken in both directions, and the member it collects is a list."""
    operation = MODELS[call.service].operation_model(call.operation)
    output = operation.output_shape
    has_pages = output is not None and "NextToken" in output.members
    assert has_pages == (call.pages is not None)
    if call.pages is not None:
        assert output is not None
        assert output.members[call.pages].type_name == "list"


def test_every_call_is_tried_and_permitted() -> None:
    """No call is without an example here, or without an entry in the table of permissions."""
    operations = {call.operation for call in ALL_CALLS}
    assert {call.operation for call in EXAMPLES} == operations
    assert STATEMENTS.keys() == operations


def test_changes_say_what_they_do() -> None:
    """Every call that changes something says so before it is made; those that only ask do not."""
    for call in EXAMPLES:
        is_asking = call.operation.startswith(("Describe", "List", "Get"))
        text = getattr(call, "describe", str)()
        assert bool(text) is not is_asking


def test_every_change_is_an_event() -> None:
    """No change at AWS is without an event, but those that are declared to be none of their own."""
    changes = {call for call in ALL_CALLS if issubclass(call, Change)}
    assert EVENTS.keys() | SILENT == changes
    assert not EVENTS.keys() & SILENT
    assert {name for name, _ in EVENTS.values()} <= {name.value for name in EventName}
