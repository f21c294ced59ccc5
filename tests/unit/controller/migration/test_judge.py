"""What is not moved, and what somebody has to do first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.controller.migration.carry_out import Pace, begin, look, move
from agent.controller.migration.describe import plan
from agent.controller.migration.find_claims import find_subjects
from agent.controller.migration.quantity import count_bytes
from agent.controller.migration.seen import Aim
from agent.core.errors import AgentError, RefusedError
from tests.unit.controller.migration.stand_in import AWS, OURS, StandInCluster, make_cluster, make_pod

pytestmark = pytest.mark.anyio

AIM = Aim(AWS, OURS, f"of-{AWS}")


def read_claim(cluster: StandInCluster) -> dict[str, Any]:
    """Return the claim."""
    return cluster.read("PersistentVolumeClaim", "data", "training")


def read_volume(cluster: StandInCluster) -> dict[str, Any]:
    """Return its PersistentVolume."""
    return cluster.read("PersistentVolume", "pv-data")


def add_pod(cluster: StandInCluster) -> None:
    cluster.add(make_pod())


def add_waiting_pod(cluster: StandInCluster) -> None:
    cluster.add(make_pod(phase="Pending"))


def add_ephemeral_pod(cluster: StandInCluster) -> None:
    pod = make_pod("other")
    pod["metadata"]["name"] = "da"
    pod["spec"]["volumes"].append({"name": "ta", "ephemeral": {}, "persistentVolumeClaim": {"claimName": ""}})
    cluster.add(pod)
    move_claim(cluster, "da-ta")


def move_claim(cluster: StandInCluster, name: str) -> None:
    """Give the claim another name."""
    claim = cluster.objects.pop(("PersistentVolumeClaim", "training", "data"))
    claim["metadata"]["name"] = name
    cluster.add(claim)
    read_volume(cluster)["spec"]["claimRef"]["name"] = name


def add_stateful_set(cluster: StandInCluster) -> None:
    metadata = {"name": "trainer", "namespace": "training"}
    spec = {"replicas": 2, "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}
    cluster.add({"kind": "StatefulSet", "metadata": metadata, "spec": spec})
    move_claim(cluster, "data-trainer-1")


def add_set_that_takes_claims(cluster: StandInCluster) -> None:
    add_stateful_set(cluster)
    stateful = cluster.read("StatefulSet", "trainer", "training")
    stateful["spec"]["persistentVolumeClaimRetentionPolicy"] = {"whenScaled": "Delete"}
    cluster.add(make_pod("data-trainer-1"))


def be_a_pods_own(cluster: StandInCluster) -> None:
    add_pod(cluster)
    read_claim(cluster)["metadata"]["ownerReferences"] = [{"kind": "Pod", "name": "trainer"}]


def ask_for_more_than_there_is(cluster: StandInCluster) -> None:
    read_volume(cluster)["spec"]["capacity"]["storage"] = "99Gi"


def change_class(cluster: StandInCluster) -> None:
    read_volume(cluster)["metadata"]["annotations"]["volume.beta.kubernetes.io/storage-class"] = "io2"


def change_modes(cluster: StandInCluster) -> None:
    read_volume(cluster)["spec"] |= {"volumeMode": "Block", "accessModes": ["ReadWriteOncePod"]}


def be_no_volume(cluster: StandInCluster) -> None:
    read_volume(cluster)["spec"]["csi"]["volumeHandle"] = "datasets"


def have_another_volume(cluster: StandInCluster) -> None:
    read_claim(cluster)["spec"]["volumeName"] = "pv-other"
    cluster.add({**read_volume(cluster), "metadata": {"name": "pv-other"}})
    read_volume(cluster)["spec"]["claimRef"]["uid"] = "another"
    cluster.read("PersistentVolume", "pv-other")["spec"] = {
        **read_volume(cluster)["spec"],
        "claimRef": {"namespace": "training", "name": "data", "uid": "third"},
    }


def add_attachment(cluster: StandInCluster) -> None:
    spec = {"attacher": AWS, "nodeName": "node", "source": {"persistentVolumeName": "pv-data"}}
    cluster.add({"kind": "VolumeAttachment", "metadata": {"name": "csi-1"}, "spec": spec})


def ask_for_more(cluster: StandInCluster) -> None:
    read_claim(cluster)["spec"]["resources"]["requests"]["storage"] = "0.2Ti"


def be_resized(cluster: StandInCluster) -> None:
    read_claim(cluster)["status"]["conditions"] = [{"type": "FileSystemResizePending", "status": "True"}]


def ask_for_speed(cluster: StandInCluster) -> None:
    read_claim(cluster)["spec"]["volumeAttributesClassName"] = "faster"


def be_cloned(cluster: StandInCluster) -> None:
    read_claim(cluster)["metadata"]["finalizers"].append(
        "provisioner.storage.kubernetes.io/cloning-protection"
    )


def delete_claim(cluster: StandInCluster) -> None:
    add_pod(cluster)
    read_claim(cluster)["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"


def delete_volume(cluster: StandInCluster) -> None:
    read_volume(cluster)["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"


def be_pending(cluster: StandInCluster) -> None:
    read_claim(cluster)["status"] = {"phase": "Pending"}


def lose_claim(cluster: StandInCluster) -> None:
    del cluster.objects["PersistentVolumeClaim", "training", "data"]


def be_in_tree(cluster: StandInCluster) -> None:
    del read_volume(cluster)["spec"]["csi"]


def be_on_an_outpost(cluster: StandInCluster) -> None:
    (term,) = read_volume(cluster)["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"]
    key = "topology.ebs.csi.aws.com/outpost-id"
    term["matchExpressions"].append({"key": key, "operator": "In", "values": ["op-1"]})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (add_pod, "Claim training/data is in use by pod trainer"),
        (add_waiting_pod, "Claim training/data is in use by pod trainer"),
        (add_ephemeral_pod, "Claim training/da-ta is in use by pod da"),
        (add_stateful_set, "StatefulSet trainer would make claim training/data-trainer-1 anew"),
        (
            add_set_that_takes_claims,
            "StatefulSet trainer deletes claim training/data-trainer-1, and its volume",
        ),
        (be_a_pods_own, "Claim training/data belongs to pod trainer, and is deleted with it"),
        (ask_for_more_than_there_is, "it asks for 100Gi, and the volume has 99Gi"),
        (change_class, "its class is 'gp3', and the volume's 'io2'"),
        (change_modes, "its mode is Filesystem, and the volume's Block; .* no access mode ReadWriteOnce"),
        (be_no_volume, "is no EBS volume: 'datasets'"),
        (have_another_volume, "has no volume yet"),
        (add_attachment, "attached to node"),
        (ask_for_more, "it is to be larger"),
        (be_resized, "FileSystemResizePending"),
        (ask_for_speed, "VolumeAttributesClass faster"),
        (be_cloned, "cloning-protection"),
        (delete_claim, "Claim training/data is being deleted"),
        (delete_volume, "PersistentVolume pv-data of claim training/data is being deleted"),
        (be_pending, "has no volume yet"),
        (lose_claim, "There is no claim training/data"),
        (be_in_tree, "is of no CSI driver"),
        (be_on_an_outpost, "topology.ebs.csi.aws.com/outpost-id"),
    ],
)
async def test_claim_that_is_not_moved(spoil: Callable[[StandInCluster], None], words: str) -> None:
    """It is refused with the object's name and a way out, and nothing at all is changed."""
    cluster = make_cluster()
    spoil(cluster)
    names = [name for kind, _, name in cluster.objects if kind == "PersistentVolumeClaim"] or ["data"]
    (subject,) = await find_subjects(cluster, AWS, OURS, "training", names)
    with pytest.raises(RefusedError, match=words) as refused:
        await move(cluster, subject, AIM, Pace(0.0, 0.0), lambda *_: None)
    assert refused.value.hint
    assert {verb for verb, _ in cluster.calls} <= {"get", "list"}
    told = plan(await look(cluster, subject, AIM), AIM)
    assert (told.steps, str(told.refusal)) == ((), str(refused.value))


async def test_pod_that_has_ended_is_in_nobodys_way() -> None:
    """A pod that ended has the claim no more, and a StatefulSet at 0 makes none."""
    cluster = make_cluster()
    cluster.add(make_pod(phase="Succeeded"))
    metadata = {"name": "trainer", "namespace": "training"}
    spec = {"replicas": 0, "volumeClaimTemplates": [{"metadata": {"name": "data"}}]}
    cluster.add({"kind": "StatefulSet", "metadata": metadata, "spec": spec})
    (subject,) = await find_subjects(cluster, AWS, OURS, "training", ["data"])
    assert plan(await look(cluster, subject, AIM), AIM).refusal is None


async def test_plan_names_every_object() -> None:
    """The steps before anything is done, and what the new claim will not say any more."""
    cluster = make_cluster(dataSource={"kind": "VolumeSnapshot", "name": "monday"})
    read_claim(cluster)["metadata"]["ownerReferences"] = [{"kind": "StatefulSet", "name": "trainer"}]
    read_claim(cluster)["spec"]["volumeAttributesClassName"] = "fast"
    read_claim(cluster)["status"]["currentVolumeAttributesClassName"] = "fast"
    (subject,) = await find_subjects(cluster, AWS, OURS, "training", ["data"])
    told = plan(await look(cluster, subject, AIM), AIM)
    verbs = [step.split(" ")[0] for step in told.steps]
    assert verbs == ["take", "make", "have", "delete", "make", "delete", "give"]
    assert all(subject.new in told.steps[number] for number in (1, 4, 6))
    assert "reclaim policy Delete" in told.steps[6]
    assert [loss for loss in told.losses if "fast" in loss or "monday" in loss or "trainer" in loss] == [
        *told.losses
    ]
    assert len(told.losses) == 3


async def test_plan_without_a_snapshot_of_a_kept_volume() -> None:
    """What is not needed is not said."""
    cluster = make_cluster("Retain")
    aim = Aim(AWS, OURS, None)
    (subject,) = await find_subjects(cluster, AWS, OURS, "training", ["data"])
    steps = plan(await look(cluster, subject, aim), aim).steps
    assert [step.split(" ")[0] for step in steps] == ["make", "delete", "make", "delete", "give"]


async def test_record_that_cannot_be_read() -> None:
    """It is said, and nothing is guessed."""
    cluster = make_cluster()
    read_volume(cluster)["metadata"]["annotations"]["ebs-agent/migration"] = '{"claim": {}}'
    (subject,) = await find_subjects(cluster, AWS, OURS, "training", ["data"])
    aim = Aim(AWS, OURS, None)
    told = plan(await look(cluster, subject, aim), aim)
    assert told.steps == ()
    assert "pv-data cannot be read" in str(told.refusal)
    with pytest.raises(AgentError, match="pv-data cannot be read"):
        await begin(cluster, subject, aim, lambda *_: None)
    with pytest.raises(AgentError, match="pv-data cannot be read"):
        await move(cluster, subject, aim, Pace(0.0, 0.0), lambda *_: None)
    assert read_volume(cluster)["spec"]["claimRef"]["name"] == "data"


async def test_record_that_cannot_be_read_and_is_for_nobody() -> None:
    """It may be any claim's, so none is moved."""
    cluster = make_cluster()
    read_volume(cluster)["metadata"]["annotations"]["ebs-agent/migration"] = "{"
    del read_volume(cluster)["spec"]["claimRef"]
    with pytest.raises(AgentError, match="pv-data cannot be read"):
        await find_subjects(cluster, AWS, OURS, None, None)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("100Gi", 100 << 30),
        ("1.5T", 1_500_000_000_000),
        ("1e9", 10**9),
        ("7", 7),
        ("2k", 2000),
        ("1E", 10**18),
        ("1395864371200m", 1395864371.2),
        ("5000000u", 5),
    ],
)
def test_quantity(text: str, size_bytes: float) -> None:
    """Kubernetes' suffixes, of ten and of two."""
    assert float(count_bytes(text)) == size_bytes


def test_what_is_no_quantity() -> None:
    """It is an error that says so."""
    with pytest.raises(AgentError, match="'1Zi' is no size"):
        count_bytes("1Zi")
