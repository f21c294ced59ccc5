"""Whether AWS is asked about volumes at all, which is known before it is known who this node is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

import anyio
import pytest
from typing_extensions import override

from agent.cloud.aws.call import Call, Within
from agent.cloud.aws.instance_types import InstanceLimits
from agent.cloud.aws.models import ClusterNode
from agent.cloud.errors.explain import CloudError
from agent.cloud.identity.cloud_identity import CloudIdentity
from agent.cloud.identity.identity_sources import IdentitySources
from agent.cloud.is_wanted import explain_open, is_open, may_be_wanted
from agent.cloud.service import CloudService
from agent.cloud.view.cloud_report import CloudReport
from agent.core.model import AttachmentPlaces, NodeFacts, Reason, VolumeId
from agent.core.replace import replace
from agent.policy import Policy
from tests.unit.policy.samples import VOL_A, make_policy
from tests.waiting import until

NAMED = f"{{name: a, match: {{volume_id: {VOL_A}}}, block: {{}}}}"
GROUPED = f"{{name: a, match: {{volume_id: {VOL_A}, instance_group: gpu}}, block: {{}}}}"
BROAD = "{name: a, match: {size: 1GiB}, block: {}}"
KNOWN = NodeFacts(instance_id="i-0123456789abcdef0")


@pytest.mark.parametrize(
    ("enabled", "entry", "facts", "is_ec2", "has_standins", "expected"),
    [
        ("true", BROAD, NodeFacts(), False, True, True),
        ("false", NAMED, KNOWN, True, False, False),
        ("auto", NAMED, KNOWN, False, False, True),
        ("auto", NAMED, NodeFacts(), True, False, True),
        ("auto", NAMED, NodeFacts(), False, False, False),
        ("auto", NAMED, NodeFacts(), True, True, False),
        ("auto", GROUPED, NodeFacts(), True, False, True),
        ("auto", GROUPED, KNOWN, True, False, False),
        ("auto", BROAD, KNOWN, True, False, False),
    ],
    ids=[
        "told to",
        "told not to",
        "a node of AWS's, known",
        "a node of AWS's, not known yet",
        "a machine that is none",
        "files that stand in",
        "the group may be this node's",
        "the group is not known, and its entries are for nobody",
        "nothing to ask",
    ],
)
def test_volumes_wait_where_aws_is_asked_or_will_be(
    enabled: str, entry: str, facts: NodeFacts, *, is_ec2: bool, has_standins: bool, expected: bool
) -> None:
    """A node that does not know yet that it is one of AWS's must not format what it would ask about."""
    policy = make_policy(f"agent: {{cloud: {{enabled: {enabled}}}}}\nvolumes: [{entry}]\n")
    assert may_be_wanted(policy, facts, has_standins=has_standins, is_ec2=is_ec2) is expected


ID = "i-0123456789abcdef0"
ARN = "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz"
OF_CLUSTER = CloudIdentity(cluster_arn=ARN, instance_id=ID, region="us-west-2")
ORDINARY = CloudIdentity(instance_id=ID, region="us-west-2")


@pytest.mark.parametrize(
    ("entry", "identity", "is_ec2", "missing"),
    [
        (NAMED, CloudIdentity(), True, "instance id and region"),
        (NAMED, CloudIdentity(), False, None),
        (NAMED, CloudIdentity(instance_id=ID, hyperpod_sign="its name"), False, "region and cluster arn"),
        (GROUPED, OF_CLUSTER, True, "instance group"),
        (GROUPED, ORDINARY, True, None),
        (GROUPED, replace(OF_CLUSTER, instance_group="cpu"), True, None),
        (BROAD, CloudIdentity(), True, None),
    ],
    ids=[
        "nothing is known",
        "a machine that is not of AWS",
        "by its name alone",
        "all but the group",
        "an ordinary instance has none",
        "all is known",
        "nothing to ask",
    ],
)
def test_it_is_told_what_is_not_known(
    entry: str, identity: CloudIdentity, missing: str | None, *, is_ec2: bool
) -> None:
    """While anything is missing that entries need of this node, it is asked for again, and each says so."""
    policy = make_policy(f"volumes: [{entry}]\n")
    assert is_open(policy, identity, has_standins=False, is_ec2=is_ec2) is (missing is not None)
    if missing is not None:
        ending = explain_open(policy, identity)["a"]
        assert ending.reason is Reason.WAITING_FOR_CLOUD
        assert missing in ending.message


class NoHands:
    """A node without devices."""

    def __init__(self) -> None:
        self.released: set[VolumeId] = set()

    def list_devices(self) -> Mapping[VolumeId, str | None]:
        return {}

    def list_assigned(self) -> Mapping[str, VolumeId]:
        return {}

    async def release(self, volume_id: VolumeId, *, is_forced: bool = False) -> None:
        raise NotImplementedError

    def freeze(self, volume_id: VolumeId) -> AbstractAsyncContextManager[bool]:
        del volume_id
        return nullcontext(False)


class ServiceUnderTest(CloudService):
    """The service with an API of its own, which tells the node's group when the test says so."""

    def __init__(self, policy: Policy, surroundings: IdentitySources) -> None:
        self.published: list[CloudReport] = []
        self.group: str | None = None
        self.limits: InstanceLimits | None = None
        self.asked: list[str] = []
        super().__init__(
            lambda: policy,
            NoHands(),
            self.published.append,
            lambda _operation, _outcome: None,
            surroundings=lambda: surroundings,
        )

    @override
    async def make(self, call: Call[Any], *, within: Within = nullcontext) -> Any:
        self.asked.append(call.operation)
        if call.operation == "DescribeClusterNode" and self.group is not None:
            return ClusterNode(ID, self.group, "Running", "us-west-2a")
        if call.operation == "DescribeInstanceTypes" and self.limits is not None:
            return (self.limits,)
        raise CloudError("AWS did not answer.", reason=Reason.CLOUD_ERROR)


async def test_identity_is_asked_for_until_it_is_known(tmp_path: Path) -> None:
    """A node whose group nobody tells says so, and is asked again, at once where there is news."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"ClusterConfig": {"ClusterArn": ARN}, "InstanceGroups": [{"Name": "gpu"}]}))
    surroundings = IdentitySources(path, None, host_name=f"hyperpod-{ID}", is_ec2=True)
    service = ServiceUnderTest(make_policy(f"volumes: [{GROUPED}]\n"), surroundings)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(service.run)
            await until(lambda: bool(service.published and service.published[-1].endings) or None)
            ending = service.published[-1].endings["a"]
            assert ending.reason is Reason.WAITING_FOR_CLOUD
            assert "instance group is not known" in ending.message
            service.group = "gpu"
            service.wake()
            await until(lambda: "DescribeVolumes" in service.asked or None)
            tasks.cancel_scope.cancel()


LIMITS = InstanceLimits("g5.8xlarge", 27, is_shared=True)


def surround_typed(directory: Path, **group: Any) -> IdentitySources:
    """Return what tells who a node of HyperPod is, and of which type."""
    path = directory / "config.json"
    instance = {"InstanceName": "gpu-1", "CustomerIpAddress": "10.0.0.1", "InstanceId": ID}
    groups = [{"Name": "gpu", "InstanceType": "ml.g5.8xlarge", "Instances": [instance], **group}]
    path.write_text(json.dumps({"ClusterConfig": {"ClusterArn": ARN}, "InstanceGroups": groups}))
    return IdentitySources(path, None, addresses=frozenset({"10.0.0.1"}))


@pytest.mark.parametrize(
    ("policy", "group", "asked"),
    [
        ("volumes: []", {}, ["DescribeInstanceTypes"]),
        (f"volumes: [{BROAD}]", {}, ["DescribeInstanceTypes"]),
        ("agent: {cloud: {enabled: true}}\nvolumes: []", {}, ["DescribeInstanceTypes"]),
        (f"volumes: [{NAMED}]", {}, ["DescribeInstanceTypes"]),
        (f"agent: {{cloud: {{attach_api: none}}}}\nvolumes: [{NAMED}]", {}, ["DescribeInstanceTypes"]),
        ("agent: {cloud: {enabled: false}}\nvolumes: []", {}, []),
        ("volumes: []", {"InstanceType": None}, []),
    ],
    ids=[
        "no entries",
        "entries that ask nothing",
        "no entries, and AWS may be asked",
        "entries that ask, of which AWS may tell nothing",
        "nothing is attached by AWS, which tells nothing",
        "AWS is not to be asked",
        "the type is not known",
    ],
)
async def test_places_are_asked_for_whatever_else_is(
    tmp_path: Path, policy: str, group: dict[str, Any], asked: list[str]
) -> None:
    """By one call, for kubelet's sake; by none where AWS is not to be asked."""
    service = ServiceUnderTest(make_policy(f"{policy}\n"), surround_typed(tmp_path, **group))
    service.limits = LIMITS
    places = await service.ask_places()
    assert service.asked == asked
    found = AttachmentPlaces("g5.8xlarge", 27, is_shared=True, attached=frozenset())
    assert places == (found if asked else None)


async def test_places_that_aws_does_not_tell_are_an_error(tmp_path: Path) -> None:
    """Whoever wants them is told why, and asks again."""
    service = ServiceUnderTest(make_policy("volumes: []\n"), surround_typed(tmp_path))
    with pytest.raises(CloudError, match="did not answer"):
        await service.ask_places()
