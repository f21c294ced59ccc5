from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cloud.aws.calls import DescribeClusterNode
from agent.cloud.aws.models import ClusterNode
from agent.cloud.identity.identity_sources import IdentitySources, identify_node, read_resource_config
from agent.cloud.identity.whoami import (
    CloudIdentity,
    IdentitySource,
    Orchestrator,
    SourceAnswer,
    merge,
    parse_cluster_arn,
    parse_identity_document,
    parse_instance_id,
    parse_node_name,
    parse_resource_config,
    partition_of_region,
    require_identity,
)
from agent.cloud.plan.decisions import AttachApi, NodeView, choose_attach_api
from agent.core.errors import AgentError
from tests.hung import never_answer

ID = "i-0123456789abcdef0"
OTHER_ID = "i-0fedcba9876543210"
ARN = "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz"
CONFIG: dict[str, Any] = {
    "ClusterConfig": {"ClusterArn": ARN, "ClusterName": "c"},
    "InstanceGroups": [
        {
            "Name": "compute-nodes",
            "InstanceType": "ml.trn1.32xlarge",
            "Instances": [
                {"InstanceName": "compute-nodes-1", "CustomerIpAddress": "10.1.2.3", "InstanceId": ID},
                {"InstanceName": "compute-nodes-2", "CustomerIpAddress": "10.1.2.4", "InstanceId": OTHER_ID},
            ],
        }
    ],
}
DOCUMENT = json.dumps(
    {"instanceId": ID, "region": "us-west-2", "availabilityZone": "us-west-2b", "accountId": "999999999999"}
).encode()


def change(path: tuple[str | int, ...], value: object) -> bytes:
    """Return the file with one value changed."""
    config = json.loads(json.dumps(CONFIG))
    place: Any = config
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(config).encode()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("ml.p5.48xlarge", "p5.48xlarge"),
        ("p5.48xlarge", "p5.48xlarge"),
        ("ml.p6e-gb200.36xlarge", "p6e-gb200.36xlarge"),
        ("u-12tb1.metal", "u-12tb1.metal"),
        ("ml.", None),
        ("p5", None),
        ("p5.48xlarge\n", None),
        ("../p5.48xlarge", None),
        ("", None),
        (None, None),
        (48, None),
        (["p5.48xlarge"], None),
    ],
)
def test_instance_type_is_ec2s(told: object, expected: str | None) -> None:
    """SageMaker's name has ml. before it; what is none leaves all else of the file as it is."""
    finding = parse_resource_config(change(("InstanceGroups", 0, "InstanceType"), told), {"10.1.2.3"})
    assert finding.instance_type == expected
    assert finding.instance_id == ID
    assert finding.problem is None


def test_file_tells_who_this_is() -> None:
    """The node is the one in the file with its address; region, account and partition come from the ARN."""
    finding = parse_resource_config(json.dumps(CONFIG).encode(), {"127.0.0.1", "10.1.2.3"})
    assert finding == SourceAnswer(
        source=IdentitySource.RESOURCE_CONFIG,
        cluster_arn=ARN,
        instance_group="compute-nodes",
        instance_name="compute-nodes-1",
        instance_id=ID,
        region="us-west-2",
        account="111122223333",
        partition="aws",
        instance_type="trn1.32xlarge",
    )


@pytest.mark.parametrize("partition", ["aws-cn", "aws-us-gov"])
def test_other_partitions(partition: str) -> None:
    """Clusters of other partitions are understood."""
    content = change(("ClusterConfig", "ClusterArn"), ARN.replace("arn:aws:", f"arn:{partition}:"))
    assert parse_resource_config(content, {"10.1.2.3"}).partition == partition


INSTANCE = ("InstanceGroups", 0, "Instances", 0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "no proper ClusterConfig"),
        (b"null", "no proper ClusterConfig"),
        (b" " * (17 << 20), "larger than 16 MiB"),
        (change(("ClusterConfig",), []), "no proper ClusterConfig"),
        (change(("ClusterConfig", "ClusterArn"), "arn:aws:s3:::x"), "ClusterArn that is none"),
        (change(("InstanceGroups",), {}), "no proper InstanceGroups"),
        (change(("InstanceGroups", 0), "x"), "no proper Instances"),
        (change((*INSTANCE, "InstanceName"), "../../etc"), "impossible instance name"),
        (change((*INSTANCE, "InstanceName"), 7), "no proper InstanceName"),
        (change((*INSTANCE, "InstanceId"), "i-1; rm -rf /"), "impossible instance ID"),
        (change(("InstanceGroups", 0, "Name"), "a/b"), "impossible instance group"),
    ],
)
def test_hostile_file_names_nobody(content: bytes, problem: str) -> None:
    """A file that is broken or hostile names no node, and its problem is told."""
    finding = parse_resource_config(content, {"10.1.2.3"})
    assert finding.instance_name is None
    assert finding.instance_id is None
    assert problem in str(finding.problem)


@pytest.mark.parametrize(
    ("addresses", "problem"),
    [({"10.9.9.9"}, "does not list"), (set(), "does not list"), ({"10.1.2.3", "10.1.2.4"}, "lists 2 nodes")],
)
def test_file_without_this_node_keeps_the_cluster(addresses: set[str], problem: str) -> None:
    """A file that does not list this node, once, still tells which cluster it is of."""
    finding = parse_resource_config(json.dumps(CONFIG).encode(), addresses)
    assert finding.cluster_arn == ARN
    assert finding.instance_name is None
    assert problem in str(finding.problem)


@pytest.mark.parametrize("instances", [None, "absent", []])
def test_group_without_instances_hides_nobody(instances: object) -> None:
    """A group that is scaled down to nothing has null, or nothing, in place of its instances."""
    empty = {"Name": "spare"} if instances == "absent" else {"Name": "spare", "Instances": instances}
    content = change(("InstanceGroups",), [empty, *CONFIG["InstanceGroups"]])
    finding = parse_resource_config(content, {"10.1.2.3"})
    assert (finding.instance_id, finding.problem) == (ID, None)


@pytest.mark.parametrize(
    "other",
    [
        {"InstanceName": "compute-nodes-3", "InstanceId": OTHER_ID},
        {"InstanceName": "compute-nodes-3", "CustomerIpAddress": None, "InstanceId": None},
        {"CustomerIpAddress": 7},
        "x",
        None,
    ],
)
def test_instance_without_an_address_hides_nobody(other: object) -> None:
    """An instance that is being made has no address yet, and is not this node."""
    content = change((*INSTANCE[:3], 1), other)
    finding = parse_resource_config(content, {"10.1.2.3"})
    assert (finding.instance_id, finding.problem) == (ID, None)


@pytest.mark.parametrize("path", [("InstanceGroups",), ("InstanceGroups", 0), (*INSTANCE, "InstanceName")])
def test_broken_list_of_nodes_keeps_the_cluster(path: tuple[str | int, ...]) -> None:
    """What is wrong with the nodes in the file leaves what it says of the cluster."""
    finding = parse_resource_config(change(path, 7), {"10.1.2.3"})
    assert finding.cluster_arn == ARN
    assert finding.problem is not None


KUBERNETES = {
    "EksClusterName": "prod-eks",
    "EksClusterEndpoint": "https://x",
    "EksServiceIpv4Cidr": "10.0.0.0/8",
}


@pytest.mark.parametrize(
    ("more", "orchestrator", "eks_cluster"),
    [
        ({"ClusterType": "Slurm"}, Orchestrator.SLURM, None),
        ({"ClusterType": "Kubernetes", "KubernetesConfig": KUBERNETES}, Orchestrator.EKS, "prod-eks"),
        ({"ClusterType": "Kubernetes"}, Orchestrator.EKS, None),
        ({"KubernetesConfig": KUBERNETES}, Orchestrator.EKS, "prod-eks"),
        ({"SlurmConfig": {}}, Orchestrator.SLURM, None),
        ({"ClusterType": "Kubernetes", "SlurmConfig": {}}, Orchestrator.EKS, None),
        ({"ClusterType": "Nomad"}, None, None),
        ({"ClusterType": 7, "KubernetesConfig": []}, None, None),
        ({"KubernetesConfig": {"EksClusterName": "*/x"}}, Orchestrator.EKS, None),
        ({}, None, None),
    ],
)
def test_file_tells_the_orchestrator(
    more: dict[str, Any], orchestrator: Orchestrator | None, eks_cluster: str | None
) -> None:
    """The cluster's type, else the block that is there, tells what orchestrates it."""
    content = change(("ClusterConfig",), {**CONFIG["ClusterConfig"], **more})
    finding = parse_resource_config(content, {"10.1.2.3"})
    assert (finding.orchestrator, finding.eks_cluster) == (orchestrator, eks_cluster)
    beside = json.dumps({**json.loads(change(("ClusterConfig", "ClusterName"), "c")), **more}).encode()
    if "ClusterType" not in more:
        assert parse_resource_config(beside, {"10.1.2.3"}).orchestrator is orchestrator


@pytest.mark.parametrize("content", [b"", b"{", change(("ClusterConfig", "ClusterArn"), "arn:aws:s3:::x")])
async def test_half_written_file_is_not_an_ordinary_instance(content: bytes, tmp_path: Path) -> None:
    """Where the file is there but says nothing, it is not known yet which cluster this is of."""
    path = tmp_path / "config.json"
    path.write_bytes(content)
    identity = merge([await read_resource_config(IdentitySources(path)), parse_identity_document(DOCUMENT)])
    assert identity.is_hyperpod
    assert not identity.is_complete
    assert identity.account is None, "the metadata's is AWS's own"
    assert choose_attach_api("auto", identity) is AttachApi.HYPERPOD
    assert NodeView(identity, AttachApi.HYPERPOD, cluster_name="mine").shared_key is None
    assert NodeView(identity, AttachApi.HYPERPOD).node_key is None
    with pytest.raises(AgentError, match=r"cluster arn is not known.*HyperPod"):
        require_identity(identity, "cluster_arn")


@pytest.mark.parametrize(
    ("host_name", "place", "is_hyperpod"),
    [(f"hyperpod-{ID}", "none", True), ("ip-10-1-2-3", ".", True), ("ip-10-1-2-3", "none", False)],
)
async def test_missing_file_on_hyperpod_is_not_an_ordinary_instance(
    host_name: str, place: str, tmp_path: Path, *, is_hyperpod: bool
) -> None:
    """Host name and directories show HyperPod before its file is written; without any it is no node of it."""
    surroundings = IdentitySources(
        tmp_path / "none", None, host_name=host_name, hyperpod_places=(tmp_path / place,)
    )
    by_name = parse_node_name(host_name)
    identity = merge(
        [
            await read_resource_config(surroundings),
            parse_identity_document(DOCUMENT),
            *([by_name] if by_name else []),
        ]
    )
    assert (identity.is_hyperpod, identity.is_complete) == (is_hyperpod, not is_hyperpod)


async def test_file_on_a_disk_that_hangs_is_there(tmp_path: Path) -> None:
    """A file that is not read in its time is told as that, and the node is one of HyperPod all the same."""
    finding = await read_resource_config(IdentitySources(tmp_path / "config", None, aside=never_answer))
    assert finding.hyperpod_sign == f"its {tmp_path}/config"
    assert "did not answer" in str(finding.problem)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["ClusterConfig", "ClusterArn", "InstanceGroups", "Instances", "Name"]), inner
            )
        ),
    )
)
def test_any_json_is_survived(value: object) -> None:
    """No JSON whatever makes the parser raise, or find a node."""
    assert parse_resource_config(json.dumps(value).encode(), {"10.1.2.3"}).instance_id is None


def test_document_tells_zone() -> None:
    """The identity document gives ID, region and zone."""
    finding = parse_identity_document(DOCUMENT, "aws")
    assert (finding.instance_id, finding.region, finding.zone) == (ID, "us-west-2", "us-west-2b")


@pytest.mark.parametrize("content", [b"", b"<html>", b"{}", DOCUMENT.replace(b"us-west-2b", b"../b")])
def test_broken_document_is_a_problem(content: bytes) -> None:
    """A proxy's page in place of the metadata is a problem, not a fact."""
    finding = parse_identity_document(content)
    assert finding.zone is None
    assert finding.problem is not None


@pytest.mark.parametrize(
    ("name", "instance_id"),
    [
        (f"hyperpod-{ID}", ID),
        (f"hyperpod-{ID}.us-west-2.compute.internal", ID),
        ("hyperpod-i-01234567", "i-01234567"),
        ("hyperpod-i-xyz", None),
        ("ip-10-1-2-3", None),
        (f"evil-hyperpod-{ID}", None),
    ],
)
def test_node_names_of_eks(name: str, instance_id: str | None) -> None:
    """A node name of the form hyperpod-i-… gives the instance ID, any other gives nothing."""
    finding = parse_node_name(name)
    assert (finding and finding.instance_id) == instance_id


def test_cluster_account_wins_over_metadata() -> None:
    """HyperPod's instances run in an account of AWS; the cluster's account is the one that counts."""
    identity = merge(
        [parse_resource_config(json.dumps(CONFIG).encode(), {"10.1.2.3"}), parse_identity_document(DOCUMENT)]
    )
    assert (identity.account, identity.zone) == ("111122223333", "us-west-2b")
    assert dict(identity.sources)["account"] is IdentitySource.RESOURCE_CONFIG
    assert dict(identity.sources)["zone"] is IdentitySource.METADATA
    assert identity.cluster_id == "abcde01234yz"
    assert not identity.problems


def test_stale_file_names_nobody() -> None:
    """A file that gives this address another instance ID is stale: its name is another node's."""
    stale = parse_resource_config(change((*INSTANCE, "InstanceId"), OTHER_ID), {"10.1.2.3"})
    identity = merge([stale, parse_identity_document(DOCUMENT)])
    assert (identity.instance_name, identity.instance_group, identity.instance_id) == (None, None, ID)
    assert identity.cluster_arn == ARN
    assert OTHER_ID in identity.problems[0]


@pytest.mark.parametrize(
    ("region", "partition"),
    [
        ("us-west-2", "aws"),
        ("cn-north-1", "aws-cn"),
        ("us-gov-west-1", "aws-us-gov"),
        ("us-iso-east-1", "aws-iso"),
    ],
)
def test_partition_follows_region(region: str, partition: str) -> None:
    """Without a better source, the region tells the partition."""
    assert partition_of_region(region) == partition
    assert merge([SourceAnswer(source=IdentitySource.METADATA, region=region)]).partition == partition


@pytest.mark.parametrize(
    "text", ["", "i-", "i-123", "vol-0123456789abcdef0", "i-0123456789abcdeg0", f"{ID}\n"]
)
def test_what_is_no_instance_id(text: str) -> None:
    """An ID that is none is an error that shows one."""
    with pytest.raises(AgentError, match="not an EC2 instance ID") as raised:
        parse_instance_id(text)
    assert "i-0123456789abcdef0" in str(raised.value.hint)


@pytest.mark.parametrize("text", ["", "abcde01234yz", ARN + "x", ARN.replace("cluster", "endpoint")])
def test_what_is_no_cluster_arn(text: str) -> None:
    """An ARN that is not a cluster's is an error that shows one."""
    with pytest.raises(AgentError, match="not the ARN of a HyperPod cluster"):
        parse_cluster_arn(text)


def test_missing_identity_says_why() -> None:
    """What is not known is told with what each source said."""
    identity = CloudIdentity(problems=("resource_config.json does not list this node's addresses (stale?)",))
    with pytest.raises(AgentError, match="instance name is not known: resource_config") as raised:
        require_identity(identity, "instance_name")
    assert "doctor" in str(raised.value.hint)


async def test_sources_that_are_not_there(tmp_path: Path) -> None:
    """No file, no metadata, no cluster: an identity of nothing, and a problem for each."""
    surroundings = IdentitySources(
        tmp_path / "none.json", metadata_endpoint="http://127.0.0.1:9", host_name="box"
    )
    identity = await identify_node(surroundings)
    assert identity.instance_id is None
    assert len(identity.problems) == 2


async def test_ordinary_instance_lacks_no_file_of_hyperpod(tmp_path: Path) -> None:
    """Where nothing speaks for HyperPod its file is not missed; its directories speak for it."""
    metadata = parse_identity_document(DOCUMENT)
    for places, problems in (((), 0), ((tmp_path,), 2)):
        told = await read_resource_config(IdentitySources(tmp_path / "none.json", hyperpod_places=places))
        assert len(merge([told, metadata]).problems) == problems, places


async def test_api_tells_what_files_do_not(tmp_path: Path) -> None:
    """Zone and group come from the API where neither file nor metadata tells them."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**CONFIG, "InstanceGroups": []}), "utf-8")
    asked: list[DescribeClusterNode] = []

    async def describe(call: DescribeClusterNode) -> ClusterNode:
        asked.append(call)
        return ClusterNode(ID, "workers", "Running", "us-west-2c")

    surroundings = IdentitySources(path, None, host_name=f"hyperpod-{ID}")
    identity = await identify_node(surroundings, describe)
    assert (identity.instance_group, identity.zone) == ("workers", "us-west-2c")
    assert dict(identity.sources)["zone"] is IdentitySource.API
    assert asked == [DescribeClusterNode(ARN, ID)]


async def test_fifo_in_place_of_the_file(tmp_path: Path) -> None:
    """A fifo where the file should be does not hold the agent up."""
    import os  # noqa: PLC0415

    path = tmp_path / "config.json"
    os.mkfifo(path)
    identity = await identify_node(IdentitySources(path, None))
    assert identity.cluster_arn is None
