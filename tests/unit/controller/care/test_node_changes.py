from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agent.controller.care.node_changes import plan_release, plan_return, plan_welcome
from agent.controller.cluster.objects import MARK_RELEASED, TAINT_OUT_OF_SERVICE, CsiNode, Node

DRIVER = "ebs.csi.aws.com"
START_UP = {"key": f"{DRIVER}/agent-not-ready", "effect": "NoExecute"}
START_UP_TOO = {"key": f"{DRIVER}/agent-not-ready", "effect": "NoSchedule"}
OTHER = {"key": "other", "effect": "NoSchedule", "value": "x", "timeAdded": "2026-01-01T00:00:00Z"}
OPERATORS = {"key": TAINT_OUT_OF_SERVICE, "effect": "NoExecute", "value": "theirs"}
OURS = {"key": TAINT_OUT_OF_SERVICE, "effect": "NoExecute", "value": "nodeshutdown"}
PROVIDER = "aws:///z/i-0123456789abcdef0"


def write_node(
    *taints: dict[str, str], ready: str = "Unknown", released: str | None = None, provider: str = PROVIDER
) -> dict[str, Any]:
    """Return a node as the API server sends it, with members that nobody asks for."""
    node: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n", "uid": "u1", "resourceVersion": "7", "labels": {"a": "b"}},
        "spec": {"providerID": provider, "podCIDR": "10.0.0.0/24"},
        "status": {"conditions": [{"type": "Ready", "status": ready, "reason": "r"}], "images": [{}]},
    }
    if taints:
        node["spec"]["taints"] = list(taints)
    if released is not None:
        node["metadata"]["annotations"] = {MARK_RELEASED: released, "theirs": "kept"}
    return node


def write_csi_node(*, owner: str = "u1", name: str = DRIVER, count: int | None = 3) -> dict[str, Any]:
    driver: dict[str, Any] = {"name": name, "nodeID": "i"}
    if count is not None:
        driver["allocatable"] = {"count": count}
    owners = [{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": owner}]
    return {"metadata": {"name": "n", "ownerReferences": owners}, "spec": {"drivers": [driver]}}


def apply(node: dict[str, Any], operations: Any) -> dict[str, Any]:
    """Return the node after a patch: what the API server does with those operations that are made."""
    for operation in operations:
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        target: Any = node
        for part in parents:
            target = target[int(part)] if isinstance(target, list) else target[part]
        key: Any = int(last) if isinstance(target, list) and last != "-" else last
        match operation["op"]:
            case "test":
                assert target[key] == operation["value"]
            case "remove":
                del target[key]
            case "add" if last == "-":
                target.append(operation["value"])
            case "add":
                target[key] = operation["value"]
            case _:
                pytest.fail(str(operation))
    return node


def read(node: dict[str, Any]) -> Node:
    return msgspec.convert(node, Node)


@pytest.mark.parametrize(
    ("csi_node", "expected"),
    [
        pytest.param(write_csi_node(), [OTHER], id="there"),
        # kubelet writes both in one update: where the count is not there with the driver, none is known.
        pytest.param(write_csi_node(count=None), [OTHER], id="without its count"),
        pytest.param(write_csi_node(name="else"), [START_UP, OTHER, START_UP_TOO], id="another driver"),
        pytest.param(write_csi_node(owner="u0"), [START_UP, OTHER, START_UP_TOO], id="an earlier node's"),
        pytest.param(None, [START_UP, OTHER, START_UP_TOO], id="none"),
    ],
)
def test_the_start_up_taint_goes_with_the_drivers_coming(
    csi_node: dict[str, Any] | None, expected: list[dict[str, str]]
) -> None:
    """All taints of the key go, others stay as they are to the letter."""
    node = write_node(START_UP, OTHER, START_UP_TOO)
    read_csi_node = None if csi_node is None else msgspec.convert(csi_node, CsiNode)
    assert apply(node, plan_welcome(read(node), read_csi_node, DRIVER))["spec"]["taints"] == expected


def test_every_patch_is_for_the_node_as_it_was_read() -> None:
    """A patch begins with what the API server refuses it by when the node has changed."""
    returned = write_node(OURS, ready="True", released=PROVIDER)
    csi_node = msgspec.convert(write_csi_node(), CsiNode)
    for plan in (
        plan_welcome(read(write_node(START_UP)), csi_node, DRIVER),
        plan_release(read(write_node()), PROVIDER),
        plan_return(read(returned)),
    ):
        assert [(step["op"], step["path"], step["value"]) for step in plan[:2]] == [
            ("test", "/metadata/uid", "u1"),
            ("test", "/metadata/resourceVersion", "7"),
        ]


@pytest.mark.parametrize("taints", [(), (OTHER,)])
@pytest.mark.parametrize("annotations", [None, {}, {"theirs": "kept"}])
def test_a_released_node_is_marked(
    taints: tuple[dict[str, str], ...], annotations: dict[str, str] | None
) -> None:
    """It gets taint and mark in one patch, and is as before once it has come back."""
    node = write_node(*taints)
    if annotations is not None:
        node["metadata"]["annotations"] = dict(annotations)
    apply(node, plan_release(read(node), PROVIDER))
    assert node["spec"]["taints"] == [*taints, OURS]
    assert node["metadata"]["annotations"] == {**(annotations or {}), MARK_RELEASED: PROVIDER}
    assert plan_release(read(node), PROVIDER) == ()
    assert plan_return(read(node)) == ()
    node["status"]["conditions"][0]["status"] = "True"
    apply(node, plan_return(read(node)))
    assert node["spec"]["taints"] == list(taints)
    assert node["metadata"]["annotations"] == (annotations or {})


@pytest.mark.parametrize(
    "node",
    [
        pytest.param(write_node(ready="True"), id="heard of"),
        pytest.param(write_node(provider="aws:///z/i-0fedcba9876543210"), id="another instance"),
        pytest.param(write_node(OPERATORS), id="out of service already"),
    ],
)
def test_a_node_is_not_released(node: dict[str, Any]) -> None:
    """What was proven of an instance is not used against a node that is, or may be, another one."""
    assert plan_release(read(node), PROVIDER) == ()


@pytest.mark.parametrize(
    ("node", "is_undone"),
    [
        (write_node(OURS, released=PROVIDER), False),
        (write_node(OURS, ready="False", released=PROVIDER), False),
        (write_node(OURS, ready="True", released=PROVIDER), True),
        (write_node(OURS, provider="aws:///z/i-0fedcba9876543210", released=PROVIDER), True),
        (write_node(OPERATORS, ready="True"), False),
    ],
)
def test_only_what_came_back_is_put_into_service(node: dict[str, Any], is_undone: bool) -> None:  # noqa: FBT001
    """A taint without the controller's mark is somebody else's."""
    assert bool(plan_return(read(node))) == is_undone
