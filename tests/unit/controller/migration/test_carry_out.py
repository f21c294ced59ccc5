"""Claims are moved, cut off anywhere, and moved on; their volume is never deleted."""

from __future__ import annotations

import copy
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from typing_extensions import override

from agent.controller.cluster.api import FORBIDDEN, UNPROCESSABLE, ClusterError, Operations
from agent.controller.migration.carry_out import Pace, move
from agent.controller.migration.find_claims import find_subjects
from agent.controller.migration.seen import Aim
from agent.core.errors import AgentError, ExitCode, RefusedError
from tests.unit.controller.migration.stand_in import (
    AWS,
    OURS,
    VOLUME_ID,
    Cut,
    StandInCluster,
    StandInEc2,
    make_claim,
    make_cluster,
    make_pod,
    make_volume,
)

pytestmark = pytest.mark.anyio

TO_OURS, BACK = Aim(AWS, OURS, f"of-{AWS}"), Aim(OURS, AWS, f"of-{OURS}")
BY_EC2 = Aim(AWS, OURS, None, takes_ec2_snapshot=True)
PACE = Pace(timeout_s=0.0, look_s=0.0)


async def migrate(
    cluster: StandInCluster, aim: Aim = TO_OURS, pace: Pace = PACE, ec2: StandInEc2 | None = None
) -> list[str]:
    """Move the claim; return what was told."""
    told: list[str] = []
    (subject,) = await find_subjects(cluster, aim.origin, aim.target, "training", ["data"])
    await move(cluster, subject, aim, pace, lambda said, _percent=None: told.append(said), ec2)
    return told


def read_claim(cluster: StandInCluster) -> dict[str, Any]:
    """Return the claim."""
    return cluster.read("PersistentVolumeClaim", "data", "training")


def strip(cluster: StandInCluster) -> list[Any]:
    """Return the objects without what the API server chooses."""
    stripped = []
    for thing in cluster.list_kind("PersistentVolume") + cluster.list_kind("PersistentVolumeClaim"):
        shown = copy.deepcopy(thing)
        for member in ("uid", "resourceVersion"):
            shown["metadata"].pop(member)
            shown["spec"].get("claimRef", {}).pop(member, None)
        stripped.append(shown)
    return stripped


@pytest.mark.parametrize("policy", ["Delete", "Retain"])
async def test_claim_is_moved(policy: str) -> None:
    """The claim has its name, size, class and volume, of the other driver, with the same reclaim policy."""
    cluster = make_cluster(policy)
    await migrate(cluster)
    (volume,) = cluster.list_kind("PersistentVolume")
    claim = read_claim(cluster)
    assert claim["spec"] == {**make_claim()["spec"], "volumeName": volume["metadata"]["name"]}
    assert claim["metadata"]["labels"] == {"app": "trainer"}
    assert claim["metadata"]["annotations"] == {"note": "mine", "pv.kubernetes.io/bind-completed": "yes"}
    assert volume["spec"]["claimRef"]["uid"] == claim["metadata"]["uid"]
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == policy
    assert volume["metadata"]["annotations"] == {"pv.kubernetes.io/provisioned-by": OURS}
    assert cluster.destroyed == []
    (snapshot,) = cluster.list_kind("VolumeSnapshot")
    assert snapshot["spec"]["volumeSnapshotClassName"] == f"of-{AWS}"


async def test_moved_volume_is_the_same() -> None:
    """Handle, filesystem, options, attributes and zone stay; the zone by the label that every node has."""
    cluster = make_cluster()
    await migrate(cluster)
    (volume,) = cluster.list_kind("PersistentVolume")
    spec = volume["spec"]
    assert spec["csi"] == {
        "driver": OURS,
        "volumeHandle": VOLUME_ID,
        "fsType": "xfs",
        "volumeAttributes": {"blockSize": "4096"},
    }
    (term,) = spec["nodeAffinity"]["required"]["nodeSelectorTerms"]
    zone = {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["us-west-2a"]}
    assert term == {"matchExpressions": [zone]}
    same = ("accessModes", "capacity", "mountOptions", "storageClassName", "volumeMode")
    assert {key: spec[key] for key in same} == {key: make_volume()["spec"][key] for key in same}


async def test_there_and_back() -> None:
    """Back at its first driver the claim is as it was; moved once more to where it is, nothing is done."""
    cluster = make_cluster()
    await migrate(cluster)
    await migrate(cluster, BACK)
    (volume,) = cluster.list_kind("PersistentVolume")
    assert volume["spec"]["csi"]["driver"] == AWS
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    assert len(cluster.list_kind("VolumeSnapshot")) == 2
    before = strip(cluster)
    assert await migrate(cluster, BACK) == []
    assert strip(cluster) == before
    assert cluster.destroyed == []


async def count_calls() -> int:
    """Return how many calls a whole migration takes."""
    cluster = make_cluster()
    await migrate(cluster)
    return len(cluster.calls)


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
async def test_cut_off_at_any_call(*, is_done: bool) -> None:
    """Whichever call is the last, done or not: the same command ends as if it had not been cut off."""
    whole = make_cluster()
    await migrate(whole)
    for number in range(await count_calls()):
        cluster = make_cluster()
        cluster.cut_at, cluster.cut_after = number, is_done
        with pytest.raises(Cut):
            await migrate(cluster)
        cluster.settle()
        cluster.cut_at = None
        await migrate(cluster)
        assert strip(cluster) == strip(whole), number
        assert cluster.destroyed == [], number
        assert len(cluster.list_kind("VolumeSnapshot")) == 1, number


async def test_failing_call_at_any_place() -> None:
    """An API server that says no to any one call leaves all so that the same command goes on."""
    for number in range(await count_calls()):
        cluster = make_cluster()

        def fail(_verb: str, _kind: str, cluster: StandInCluster = cluster, number: int = number) -> None:
            if len(cluster.calls) == number:
                cluster.calls.append(("refused", ""))
                raise ClusterError("No.", status=FORBIDDEN)

        cluster.before_call = fail
        with pytest.raises(AgentError, match=r"No\."):
            await migrate(cluster)
        await migrate(cluster)
        assert cluster.destroyed == [], number


@pytest.mark.parametrize("status", [0, 410, 503])
async def test_api_server_that_is_ill_for_a_moment(status: int) -> None:
    """No answer, a list that ran out of date, too much to do: the command asks again, wherever that comes."""
    for number in range(await count_calls()):
        cluster = make_cluster()

        def fail(_verb: str, _kind: str, cluster: StandInCluster = cluster, number: int = number) -> None:
            if len(cluster.calls) == number:
                cluster.calls.append(("failed", ""))
                raise ClusterError("Ill.", status=status)

        (subject,) = await find_subjects(cluster, AWS, OURS, "training", ["data"])
        cluster.calls.clear()
        cluster.before_call = fail
        assert await move(cluster, subject, TO_OURS, Pace(60.0, 0.0), lambda *_: None), number
        assert read_claim(cluster)["status"]["phase"] == "Bound"
        assert cluster.destroyed == [], number


async def test_quota_that_counts_the_claim_still() -> None:
    """A quota that is used up counts the old claim for a while after its end; the new one is made then."""
    cluster = make_cluster()
    refusals = iter(range(4))

    def admit(made: Any) -> None:
        if "volumeName" in made["spec"] and next(refusals, None) is not None:
            raise ClusterError("exceeded quota: storage", status=FORBIDDEN)

    cluster.admit = admit
    told = await migrate(cluster, pace=Pace(60.0, 0.0))
    assert told.count("exceeded quota: storage") == 1
    assert read_claim(cluster)["status"]["phase"] == "Bound"


async def test_claim_that_the_cluster_would_not_have_again() -> None:
    """What checks new claims is asked before anything is deleted."""
    cluster = make_cluster()

    def admit(made: Any) -> None:
        if made["spec"].get("volumeName"):
            raise ClusterError("admission webhook says: no team", status=FORBIDDEN)

    cluster.admit = admit
    with pytest.raises(RefusedError, match="could not be made anew: admission webhook says: no team"):
        await migrate(cluster)
    assert {verb for verb, kind in cluster.calls if kind != "VolumeSnapshot"} <= {"get", "list", "try"}


async def test_what_was_said_last_is_told() -> None:
    """Who refuses for good is named when time is up, with the words."""
    cluster = make_cluster()

    def admit(made: Any) -> None:
        if "csi" in made["spec"]:
            raise ClusterError("annotations are too long.", status=UNPROCESSABLE)

    cluster.admit = admit
    with pytest.raises(AgentError, match=r"make PersistentVolume .*: annotations are too long\."):
        await migrate(cluster)


@pytest.mark.parametrize("policy", ["Delete", "Retain"])
async def test_claim_of_no_class(policy: str) -> None:
    """A claim that names no class is not given the cluster's default, with which it never has the volume."""
    cluster = make_cluster(policy)
    del read_claim(cluster)["spec"]["storageClassName"]
    cluster.read("PersistentVolume", "pv-data")["spec"].pop("storageClassName")
    await migrate(cluster)
    assert read_claim(cluster)["status"]["phase"] == "Bound"


async def test_snapshot_that_somebody_deletes_is_none() -> None:
    """One that is on its way out does not count: nothing is deleted before there is another."""
    cluster = make_cluster()
    cluster.before_call = stop_at("create", "PersistentVolume")
    with pytest.raises(Cut):
        await migrate(cluster)
    cluster.before_call = lambda _verb, _kind: None
    (snapshot,) = cluster.list_kind("VolumeSnapshot")
    snapshot["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with pytest.raises(AgentError, match="which somebody deleted, is gone"):
        await migrate(cluster)
    del cluster.objects["VolumeSnapshot", "training", snapshot["metadata"]["name"]]
    await migrate(cluster)
    assert len(cluster.list_kind("VolumeSnapshot")) == 1


class Shared(StandInCluster):
    """A cluster in which somebody else does something at one moment."""

    def __init__(self, cluster: StandInCluster, number: int, act: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self.objects = cluster.objects
        self.destroyed = cluster.destroyed
        self._numbers = cluster._numbers
        self._number, self._act = number, act

    @override
    async def find_in(self, kind: type[Any], name: str, namespace: str) -> Any:
        await self._let_act()
        return await super().find_in(kind, name, namespace)

    @override
    async def _list(self, kind: type[Any], namespace: str | None) -> list[Any]:
        await self._let_act()
        return await super()._list(kind, namespace)

    @override
    async def create(self, made: Any, name: str) -> None:
        await self._let_act()
        await super().create(made, name)

    @override
    async def change(self, kind: type[Any], name: str, operations: Operations) -> None:
        await self._let_act()
        await super().change(kind, name, operations)

    @override
    async def delete(
        self, kind: type[Any], name: str, uid: str, version: str, namespace: str | None = None
    ) -> None:
        await self._let_act()
        await super().delete(kind, name, uid, version, namespace)

    async def _let_act(self) -> None:
        if len(self.calls) >= self._number:
            self._number = sys.maxsize
            await self._act()


@pytest.mark.parametrize("aim", [TO_OURS, BACK], ids=["the same way", "the other way"])
async def test_two_who_move_it_at_once(aim: Aim) -> None:
    """Whenever another does all of it, either way: nobody fails by that, and the claim has its volume."""
    for number in range(await count_calls()):
        cluster = make_cluster()

        async def act(cluster: StandInCluster = cluster) -> None:
            with suppress(RefusedError) if aim is BACK else nullcontext():
                await migrate(cluster, aim)

        (subject,) = await find_subjects(cluster, AWS, OURS, "training", ["data"])
        await move(Shared(cluster, number, act), subject, TO_OURS, Pace(60.0, 0.0), lambda *_: None)
        cluster.settle()
        (volume,) = cluster.list_kind("PersistentVolume")
        assert (read_claim(cluster)["status"]["phase"], volume["spec"]["csi"]["driver"]) == ("Bound", OURS), (
            number
        )
        assert cluster.destroyed == [], number


async def test_way_back_waits_for_the_way_there() -> None:
    """A claim that is on its way is not sent back before it is there."""
    cluster = make_cluster()
    cluster.before_call = stop_at("delete", "PersistentVolumeClaim")
    with pytest.raises(Cut):
        await migrate(cluster)
    cluster.before_call = lambda _verb, _kind: None
    with pytest.raises(RefusedError, match=r"on its way from ebs.csi.aws.com to"):
        await migrate(cluster, BACK)


def stop_at(verb: str, kind: str) -> Callable[[str, str], None]:
    """Return what has the process end before such a call."""

    def stop(asked: str, of: str) -> None:
        if (asked, of) == (verb, kind):
            raise Cut

    return stop


async def test_pod_that_comes_in_between_is_waited_for() -> None:
    """A pod that begins to use the claim as it is deleted keeps it; the move goes on once that has ended."""
    cluster = make_cluster()

    def start(verb: str, kind: str) -> None:
        if (verb, kind) == ("delete", "PersistentVolumeClaim"):
            cluster.add(make_pod())

    cluster.before_call = start
    with pytest.raises(AgentError, match=r"claim training/data is gone, which trainer may hold") as failed:
        await migrate(cluster)
    assert failed.value.exit_code is ExitCode.NOT_READY
    cluster.before_call = lambda _verb, _kind: None
    del cluster.objects["Pod", "training", "trainer"]
    cluster.settle()
    await migrate(cluster)
    assert cluster.destroyed == []


@pytest.mark.parametrize("call", [("patch", "PersistentVolume"), ("delete", "PersistentVolumeClaim")])
async def test_claim_that_is_used_again_before_the_rest(call: tuple[str, str]) -> None:
    """Cut off before the claim is deleted, and a pod uses it since: it is refused until that has ended."""
    cluster = make_cluster()
    cluster.before_call = stop_at(*call)
    with pytest.raises(Cut):
        await migrate(cluster)
    cluster.before_call = lambda _verb, _kind: None
    cluster.add(make_pod())
    with pytest.raises(RefusedError, match="in use by pod trainer"):
        await migrate(cluster)
    assert "deletionTimestamp" not in read_claim(cluster)["metadata"]
    del cluster.objects["Pod", "training", "trainer"]
    await migrate(cluster)
    assert cluster.destroyed == []


async def test_old_volume_that_is_attached_yet_is_waited_for() -> None:
    """No second driver attaches a volume that the first one has attached still."""
    cluster = make_cluster()

    def attach(verb: str, kind: str) -> None:
        if (verb, kind) == ("delete", "PersistentVolumeClaim"):
            spec = {"attacher": AWS, "nodeName": "node", "source": {"persistentVolumeName": "pv-data"}}
            cluster.add({"kind": "VolumeAttachment", "metadata": {"name": "csi-1"}, "spec": spec})

    cluster.before_call = attach
    with pytest.raises(AgentError, match="is detached from node"):
        await migrate(cluster)
    assert cluster.list_kind("PersistentVolumeClaim") == []
    cluster.before_call = lambda _verb, _kind: None
    del cluster.objects["VolumeAttachment", "", "csi-1"]
    await migrate(cluster)
    assert cluster.destroyed == []


async def test_claim_that_changes_in_between_is_looked_at_again() -> None:
    """The claim is deleted as it was seen, or looked at anew: no change is passed over."""
    cluster = make_cluster()
    changes = iter(["a pod ended"])

    def change(verb: str, kind: str) -> None:
        if (verb, kind) == ("delete", "PersistentVolumeClaim") and next(changes, None):
            cluster.add(read_claim(cluster))

    cluster.before_call = change
    await migrate(cluster, pace=Pace(timeout_s=60.0, look_s=0.0))
    assert cluster.calls.count(("delete", "PersistentVolumeClaim")) == 2


async def test_somebody_elses_claim_of_the_name_is_left() -> None:
    """Who makes the claim with another volume while it is gone is told, and the first volume is kept."""
    cluster = make_cluster()

    def intrude(verb: str, kind: str) -> None:
        if (verb, kind) == ("create", "PersistentVolumeClaim"):
            claim = make_claim(volumeName="pv-other")
            claim["metadata"]["uid"] = "uid-of-another"
            cluster.add(claim)

    cluster.before_call = intrude
    with pytest.raises(
        RefusedError, match=r"Somebody made claim training/data with another volume, pv-other"
    ):
        await migrate(cluster)
    assert cluster.destroyed == []
    assert {
        each["spec"]["persistentVolumeReclaimPolicy"] for each in cluster.list_kind("PersistentVolume")
    } == {"Retain"}


async def test_new_claim_that_is_deleted_keeps_its_volume() -> None:
    """Somebody who deletes the claim before all is done loses nothing, and is told how to have it back."""
    cluster = make_cluster()
    cluster.before_call = stop_at("delete", "PersistentVolume")
    with pytest.raises(Cut):
        await migrate(cluster)
    cluster.before_call = lambda _verb, _kind: None
    del cluster.objects["PersistentVolumeClaim", "training", "data"]
    cluster.settle()
    with pytest.raises(RefusedError, match="somebody deleted it") as refused:
        await migrate(cluster)
    assert "claimRef" in str(refused.value.hint)
    (new,) = (each for each in cluster.list_kind("PersistentVolume") if each["spec"]["csi"]["driver"] == OURS)
    new["spec"]["claimRef"].pop("uid")
    await migrate(cluster)
    assert cluster.destroyed == []


async def test_policy_that_somebody_puts_back_is_seen() -> None:
    """The old PersistentVolume is told again to keep the volume where somebody undid it."""
    cluster = make_cluster()
    cluster.before_call = stop_at("delete", "PersistentVolumeClaim")
    with pytest.raises(Cut):
        await migrate(cluster)
    cluster.before_call = lambda _verb, _kind: None
    cluster.read("PersistentVolume", "pv-data")["spec"]["persistentVolumeReclaimPolicy"] = "Delete"
    told = await migrate(cluster)
    assert told[0] == "have PersistentVolume pv-data keep the volume (Retain)"
    assert cluster.destroyed == []


async def test_snapshot_of_ec2s_own() -> None:
    """EC2 is asked once, for the claim's volume, and the claim is deleted only when that one is complete."""
    cluster, ec2 = make_cluster(), StandInEc2()
    cluster.has_snapshot_types = False
    told = await migrate(cluster, BY_EC2, ec2=ec2)
    (call,) = ec2.taken.values()
    assert (call.name, call.volume_id) == ("before-migration-uid-of-data", VOLUME_ID)
    assert ("kubernetes.io/created-for/pvc/name", "data") in call.tags
    taken, waited, recorded, *_ = told
    assert taken == f"take EC2 snapshot {call.name} of {VOLUME_ID}, unless it is there"
    assert waited == "waits until snap-00000000000000000 is complete (so far: 40 %)"
    assert recorded.startswith("make PersistentVolume")
    assert "VolumeSnapshot" not in {kind for _, kind in cluster.calls}
    assert cluster.destroyed == []


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
async def test_cut_off_at_ec2s_snapshot(*, is_done: bool) -> None:
    """Nothing is deleted before EC2 has a snapshot, and asked again it has one, not two."""
    cluster, ec2 = make_cluster(), StandInEc2()

    def cut() -> None:
        raise Cut

    setattr(ec2, "after_take" if is_done else "before_take", cut)
    with pytest.raises(Cut):
        await migrate(cluster, BY_EC2, ec2=ec2)
    assert {verb for verb, _ in cluster.calls} == {"get", "list"}
    ec2.before_take = ec2.after_take = lambda: None
    await migrate(cluster, BY_EC2, ec2=ec2)
    assert len(ec2.takes) == 1
    assert cluster.destroyed == []


async def test_snapshot_that_ec2_could_not_take() -> None:
    """It is never complete: that is said at once, with the way out, and nothing is changed."""
    cluster, ec2 = make_cluster(), StandInEc2()
    ec2.state = "error"
    with pytest.raises(RefusedError, match=r"EC2 could not take snap-0+ .*delete-snapshot"):
        await migrate(cluster, BY_EC2, ec2=ec2)
    assert {verb for verb, _ in cluster.calls} == {"get", "list"}


async def test_volume_that_ec2_does_not_know() -> None:
    """What is no EBS volume is refused where EC2 would have to take its snapshot; nothing is changed."""
    cluster, ec2 = make_cluster(), StandInEc2()
    cluster.read("PersistentVolume", "pv-data")["spec"]["csi"]["volumeHandle"] = "share-1"
    with pytest.raises(RefusedError, match="is no EBS volume: 'share-1'"):
        await migrate(cluster, BY_EC2, ec2=ec2)
    assert ec2.takes == []
    assert {verb for verb, _ in cluster.calls} == {"get", "list"}
