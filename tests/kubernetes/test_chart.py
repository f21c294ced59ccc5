"""The chart at a real API server: its objects are taken, and what it ships has the rights that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.aws.cloud import REGION, Cloud
from tests.chart.helm import FULL, LEAST, render
from tests.kubernetes.api import Object
from tests.kubernetes.claims import CLASS, DRIVER, FASTER, INSTANCE, SNAPSHOTS, WAIT_S, Claims, declare_node
from tests.kubernetes.control_plane import ControlPlane, run_control_plane
from tests.kubernetes.interrupted_aws import InterruptedAws, Interruption
from tests.kubernetes.kubectl import ask, kubectl, kubectl_unavailable_reason
from tests.kubernetes.programs import SIDECARS, find_missing, list_roles
from tests.kubernetes.sidecars import CONTROLLER, ControllerPod, Shipped, declare_snapshots, grant_rights
from tests.waiting import wait_until

ROLES = FULL.parents[1] / "files/roles"
NOT_USED = {"csistoragecapacities", "pods", "replicasets"}
"""What csi-provisioner asks for in its namespace to publish capacities, which it does not here."""
OPERATOR = {"ServiceMonitor": "servicemonitors", "PrometheusRule": "prometheusrules"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Give a cluster that knows snapshots and the Prometheus operator's kinds."""
    if missing := find_missing(SIDECARS):
        pytest.skip(f"needs {', '.join(missing)} built: make build-kubernetes")
    if reason := kubectl_unavailable_reason():
        pytest.skip(reason)
    with run_control_plane(tmp_path_factory.mktemp("chart")) as plane:
        declare_snapshots(plane.api)
        kubectl(plane, [define(kind, plural) for kind, plural in OPERATOR.items()])
        for plural in OPERATOR.values():
            ask(plane, "wait", "--for=condition=Established", f"crd/{plural}.monitoring.coreos.com")
        yield plane


@pytest.mark.parametrize("values", [LEAST, FULL])
def test_objects_are_taken(plane: ControlPlane, values: Path) -> None:
    """The API server finds no fault with any object, nor a field that it does not know."""
    objects = render(values)
    said = kubectl(plane, objects, "--dry-run=server")
    assert len(said.splitlines()) == len(objects)


def test_pod_is_taken_where_little_is_allowed(plane: ControlPlane) -> None:
    """The pod holds to the strictest of Kubernetes' standards for pods."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl(
        plane, [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "strict", "labels": label}}]
    )
    (deployment,) = (made for made in render(FULL) if made["kind"] == "Deployment")
    pod = {"apiVersion": "v1", "kind": "Pod", **deployment["spec"]["template"]}
    pod["metadata"].update(name="controller", namespace="strict")
    assert "pod/controller" in kubectl(plane, [pod], "--dry-run=server")


@pytest.mark.parametrize("name", ["csi-provisioner", "csi-attacher", "csi-resizer", "csi-snapshotter"])
def test_sidecars_may_what_their_release_declares(name: str) -> None:
    """No more, and less only where it is known why."""
    if find_missing([name]):
        pytest.skip(f"needs {name} built: make build-kubernetes")
    declared: dict[str, list[Object]] = {}
    for path in list_roles(name):
        for made in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if made and made["kind"] in {"ClusterRole", "Role"}:
                declared.setdefault(made["kind"], []).extend(made["rules"])
    declared["Role"] = [rule for rule in declared["Role"] if not set(rule["resources"]) & NOT_USED]
    assert yaml.safe_load((ROLES / f"{name}.yaml").read_text(encoding="utf-8")) == declared


@pytest.fixture(scope="module")
def shipped(plane: ControlPlane) -> Shipped:
    """Give what the chart runs, in a cluster with the chart's objects and a node that only the API knows."""
    objects = render(
        LEAST,
        sets=[
            f'region="{REGION}"',
            f'driver="{DRIVER}"',
            "snapshots=true",
            'metrics={"enabled":false}',
            f'storageClasses=[{{"name":"{CLASS}","parameters":{{"type":"gp3"}}}}]',
            f'volumeAttributesClasses=[{{"name":"{FASTER}","parameters":{{"throughput":"250"}}}}]',
            f'volumeSnapshotClasses=[{{"name":"{SNAPSHOTS}"}}]',
        ],
    )
    kubectl(plane, objects)
    grant_rights(plane.api, ["snapshot-controller"])
    declare_node(plane.api)
    return Shipped("controller", list_arguments(objects))


def test_claim_with_what_is_shipped(plane: ControlPlane, shipped: Shipped) -> None:
    """With the chart's rights, classes and arguments a claim is made, attached, changed, copied and gone."""
    cloud = Cloud()
    cloud.add_node(INSTANCE)
    with (
        InterruptedAws(cloud) as aws,
        ControllerPod(plane, DRIVER, aws.endpoint, shipped=shipped) as running,
    ):
        claims = Claims(plane.api, aws, running)
        claim = claims.claim()
        pod = claims.add_pod(claim)
        claims.wait_attached()
        wanted = {"resources": {"requests": {"storage": "2Gi"}}, "volumeAttributesClassName": FASTER}
        plane.api.patch("PersistentVolumeClaim", claim, {"spec": wanted})
        plane.api.wait("PersistentVolumeClaim", claim, is_faster, "was to be faster")
        plane.api.delete("VolumeSnapshot", claims.take_snapshot(claim))
        finish(claims, claim, pod)
        leases = {lease["metadata"]["name"] for lease in plane.api.list("Lease")}
        assert f"ebs-agent-care-{DRIVER}" in leases
        assert len(leases) == len(shipped.arguments)
    logs = [log.read_text(errors="replace") for log in plane.directory.glob("csi-*.log")]
    assert not any("forbidden" in log.lower() for log in logs)


@pytest.mark.thorough
def test_leader_loses_its_leases_in_the_middle(plane: ControlPlane, shipped: Shipped) -> None:
    """The pod that leads stands still as it makes a volume, then the next as it attaches it: all is once."""
    cloud = Cloud()
    cloud.add_node(INSTANCE)
    led = ["first"] * (len(shipped.arguments) - 1)
    with (
        InterruptedAws(cloud) as aws,
        ControllerPod(plane, DRIVER, aws.endpoint, shipped=shipped, host="first") as first,
    ):
        wait_until(lambda: list_leaders(plane) == led, "the first pod was to lead", WAIT_S)
        with ControllerPod(plane, DRIVER, aws.endpoint, shipped=shipped, host="second") as second:
            claims = Claims(plane.api, aws, first)

            def swap() -> None:
                second.pause()
                first.resume()

            create = aws.interruption = Interruption("CreateVolume", is_after=True, strike=first.pause)
            claim = claims.claim()
            pod = claims.add_pod(claim)
            wait_until(lambda: create.has_struck, "it was to be made", WAIT_S)
            attach = aws.interruption = Interruption("AttachClusterNodeVolume", is_after=True, strike=swap)
            wait_until(lambda: attach.has_struck, "it was to be attached by the second pod", WAIT_S)
            assert len(cloud.made) == 1
            claims.wait_attached()
            wait_until(lambda: list_leaders(plane) == led, "the first pod was to lead again", WAIT_S)
            second.resume()
            (volume,) = cloud.volumes.values()
            assert [one.holder for one in volume.attachments] == [INSTANCE]
            finish(claims, claim, pod)
            assert len(cloud.made) == 1


@pytest.mark.thorough
def test_leader_is_killed_in_the_middle(plane: ControlPlane, shipped: Shipped) -> None:
    """The pod that leads is gone for good as it makes a volume: the other attaches that, and makes none."""
    cloud = Cloud()
    cloud.add_node(INSTANCE)
    led = ["killed"] * (len(shipped.arguments) - 1)
    with (
        InterruptedAws(cloud) as aws,
        ControllerPod(plane, DRIVER, aws.endpoint, shipped=shipped, host="killed") as first,
    ):
        wait_until(lambda: list_leaders(plane) == led, "the first pod was to lead", WAIT_S)
        with ControllerPod(plane, DRIVER, aws.endpoint, shipped=shipped, host="other") as other:
            claims = Claims(plane.api, aws, other)
            create = aws.interruption = Interruption("CreateVolume", is_after=True, strike=first.kill)
            claim = claims.claim()
            pod = claims.add_pod(claim)
            wait_until(lambda: create.has_struck, "it was to be made", WAIT_S)
            assert len(cloud.made) == 1
            claims.wait_attached()
            assert set(list_leaders(plane)) == {"other"}
            (volume,) = cloud.volumes.values()
            assert [one.holder for one in volume.attachments] == [INSTANCE]
            finish(claims, claim, pod)
            assert len(cloud.made) == 1


def list_leaders(plane: ControlPlane) -> list[str]:
    """Return the hosts by whose names sidecars lead, one for each kind of sidecar."""
    leases = [one for one in plane.api.list("Lease") if "care" not in one["metadata"]["name"]]
    return [str(one["spec"].get("holderIdentity")) for one in leases]


def finish(claims: Claims, claim: str, pod: str) -> None:
    """Take pod and claim away, and see that nothing of them is left."""
    claims.end_pod(pod)
    claims.wait_attached(0)
    claims.api.delete("PersistentVolumeClaim", claim)
    claims.wait_leftovers()


def list_arguments(objects: list[Object]) -> dict[str, list[str]]:
    """Return what each program is run with; outside of a pod a sidecar is told where its leases are."""
    (deployment,) = (made for made in objects if made["kind"] == "Deployment")
    containers = deployment["spec"]["template"]["spec"]["containers"]
    said = {each["name"]: list(each["args"]) for each in containers if each["name"] != "liveness-probe"}
    ours = said.pop("controller")
    elsewhere = ("--csi-address=", "--endpoint=")
    shipped = {
        name: [
            *(each for each in args if not each.startswith(elsewhere)),
            "--leader-election-namespace=default",
        ]
        for name, args in said.items()
    }
    return {CONTROLLER: [each for each in ours if not each.startswith(elsewhere)], **shipped}


def is_faster(claim: Object) -> bool:
    """Tell whether a claim has the size and the class of the test's patch."""
    status = claim["status"]
    return (status["capacity"]["storage"], status.get("currentVolumeAttributesClassName")) == ("2Gi", FASTER)


def define(kind: str, plural: str) -> Object:
    """Return a definition of a kind of the Prometheus operator's, which takes anything."""
    group = "monitoring.coreos.com"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
    }
