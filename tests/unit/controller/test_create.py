"""Volumes for claims: one under each name, through lost answers, lag, deaths and used tokens."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from agent.cloud.aws.calls import DescribeVolumes
from agent.cloud.aws.making_calls import CopyVolumes, CreateVolume
from agent.cloud.aws.models import CloudSnapshot
from agent.cloud.aws.zones import DescribeAvailabilityZones
from agent.controller.calls import (
    GIB,
    CopySource,
    CreateCall,
    DiffersError,
    MadeVolume,
    NoSuchThingError,
    Performance,
    SizeError,
    SizeRange,
)
from agent.controller.making.create import MOST_TOKENS
from agent.controller.making.known_volumes import LAG_S
from agent.controller.making.tokens import MOST_NAMES, Tokens, make_token
from agent.controller.volumes.cluster_volumes import ClusterVolumes
from agent.core.errors import AgentError, InvalidValueError
from agent.core.model import VolumeId
from agent.core.reasons import Reason
from agent.core.replace import replace
from tests.unit.controller.making_stand_in import Ec2
from tests.unit.controller.stand_in import KilledError

ZONE, ID = "topology.kubernetes.io/zone", "topology.k8s.aws/zone-id"
IN_A, IN_B = ((ZONE, "us-west-2a"),), ((ZONE, "us-west-2b"),)
CALL = CreateCall("pvc-1", SizeRange(5 * GIB), requisite=(IN_A, IN_B), preferred=(IN_A, IN_B))
SNAPSHOT = "snap-0123456789abcdef0"


def create(ec2: Ec2, call: CreateCall = CALL, cluster_id: str | None = None) -> MadeVolume:
    return asyncio.run(ec2.start(cluster_id).create(call))


def create_until_done(ec2: Ec2, call: CreateCall = CALL) -> MadeVolume:
    """Ask as the provisioner does: again and again, of a controller that is started anew where it died."""
    for _ in range(10):
        with suppress(AgentError, KilledError):
            return create(ec2, call)
    raise AssertionError("it was never made")


def test_a_volume_is_made_with_its_marks_and_told_of_once_it_can_be_attached() -> None:
    call = replace(CALL, tags=(("team", "a"), ("CSIVolumeName", "mine")), context=(("k", "v"),))
    ec2 = Ec2()
    made = create(ec2, call, "prod")
    assert made.volume.state == "available"
    assert made.topology == IN_A
    assert made.context == (("k", "v"),)
    (volume,) = ec2.volumes.values()
    assert dict(volume.tags) == {
        "CSIVolumeName": "pvc-1",
        "ebs.csi.aws.com/cluster": "true",
        "ebs-agent:made-by": "ebs-agent",
        "kubernetes.io/cluster/prod": "owned",
        "team": "a",
    }
    assert (volume.size_gib, volume.type, volume.zone) == (5, "gp3", "us-west-2a")


def test_names_that_no_tag_takes_are_found_again() -> None:
    ec2, call = Ec2(), replace(CALL, name="Straße*?" * 99)
    assert create(ec2, call).volume.volume_id == create(ec2, call).volume.volume_id
    assert len(ec2.changes) == 1


@pytest.mark.parametrize("lag_s", [0.0, 5.0])
@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("burnt", [0, 1])
@pytest.mark.parametrize("is_full", [False, True])
def test_whenever_the_controller_dies_there_is_one_volume(
    lag_s: float, number: int, burnt: int, *, is_done: bool, is_full: bool
) -> None:
    """And the same one is told of, though descriptions lag, tokens are used up, and a zone is full."""
    ec2 = Ec2(lag_s=lag_s, kill=(number, is_done), full_zones={"us-west-2a"} if is_full else set())
    for one in range(burnt):
        ec2.tokens[make_token("pvc-1", one + 1)] = (
            CreateVolume("", "us-west-2a", 9, "gp3", ()),
            VolumeId("vol-0"),
        )
    made = create_until_done(ec2)
    assert list(ec2.volumes) == [made.volume.volume_id]
    assert made.volume.zone == ("us-west-2b" if is_full else "us-west-2a")
    assert create(ec2).volume.volume_id == made.volume.volume_id


@pytest.mark.parametrize("lag_s", [0.0, 5.0])
def test_a_lost_answer_costs_no_second_volume(lag_s: float) -> None:
    ec2 = Ec2(lag_s=lag_s, lost={0, 1})
    made = create_until_done(ec2)
    assert list(ec2.volumes) == [made.volume.volume_id]


@pytest.mark.parametrize("lag_s", [0.0, 5.0])
@pytest.mark.parametrize(
    "other", [CALL, replace(CALL, preferred=(IN_B, IN_A)), replace(CALL, tags=(("a", "b"),))]
)
def test_two_controllers_at_once_make_one_volume(lag_s: float, other: CreateCall) -> None:
    """Though they do not ask alike, as where the pod was put elsewhere meanwhile, or tags were configured."""
    ec2 = Ec2(lag_s=lag_s)

    async def run() -> list[MadeVolume]:
        return list(await asyncio.gather(ec2.start().create(CALL), ec2.start().create(other)))

    first, second = asyncio.run(run())
    assert first.volume.volume_id == second.volume.volume_id
    assert list(ec2.volumes) == [first.volume.volume_id]


def test_a_name_that_was_deleted_is_made_again() -> None:
    """However often; each volume uses one token up."""
    ec2 = Ec2()
    made = [create(ec2).volume.volume_id]
    for _ in range(3):
        ec2.volumes.clear()
        made.append(create(ec2).volume.volume_id)
    assert len(set(made)) == 4
    for number in range(1, 2 * MOST_TOKENS):
        ec2.tokens.setdefault(make_token("pvc-1", number), (ec2.changes[0], VolumeId("vol-0")))
    ec2.volumes.clear()

    async def run() -> MadeVolume:
        volumes = ec2.start()
        with pytest.raises(AgentError, match=f"{MOST_TOKENS} volumes named 'pvc-1' were made"):
            await volumes.create(CALL)
        return await volumes.create(CALL)

    assert asyncio.run(run()).volume.state == "available"


KEYED = replace(CALL, is_encrypted=True, kms_key_id="arn:k")
BROKEN_TRIES = 20


async def use_up_tokens(ec2: Ec2, volumes: ClusterVolumes) -> None:
    """Ask as long as the key is broken: AWS makes a volume each time, and takes it back."""
    ec2.broken_keys = {"arn:k"}
    for _ in range(BROKEN_TRIES):
        with pytest.raises(AgentError) as raised:
            await volumes.create(KEYED)
        assert "took it back" in str(raised.value)
        assert "arn:k" in str(raised.value.hint)
    ec2.broken_keys.clear()
    assert len(ec2.tokens) == BROKEN_TRIES > MOST_TOKENS


async def test_a_claim_gets_its_volume_once_its_key_is_mended() -> None:
    """However long that took: what is known to be used up is not tried again."""
    ec2 = Ec2()
    volumes = ec2.start()
    await use_up_tokens(ec2, volumes)
    ec2.changes.clear()
    made = await volumes.create(KEYED)
    assert list(ec2.volumes) == [made.volume.volume_id]
    assert len(ec2.changes) == 2  # the last one that was taken back, and this
    assert (await volumes.create(KEYED)).volume.volume_id == made.volume.volume_id
    assert (await ec2.start().create(KEYED)).volume.volume_id == made.volume.volume_id


async def test_a_controller_that_begins_anew_gets_behind_the_used_tokens() -> None:
    """Some at each attempt, which says that it goes on, and what to look at."""
    ec2 = Ec2()
    await use_up_tokens(ec2, ec2.start())
    volumes = ec2.start()
    with pytest.raises(AgentError, match=f"{MOST_TOKENS} volumes named 'pvc-1' were made") as raised:
        await volumes.create(KEYED)
    assert "arn:k" in str(raised.value.hint)
    assert "goes on" in str(raised.value.hint)
    made = await volumes.create(KEYED)
    assert list(ec2.volumes) == [made.volume.volume_id]


async def test_a_key_that_breaks_again_is_named_with_what_was_taken_back() -> None:
    ec2 = Ec2()
    volumes = ec2.start()
    ec2.broken_keys = {"arn:k"}
    with pytest.raises(AgentError, match="took it back"):
        await volumes.create(KEYED)
    (vanished,) = ec2.made_at_s
    for number in range(2, 2 + MOST_TOKENS):
        ec2.tokens[make_token("pvc-1", number)] = ec2.changes[0], VolumeId("vol-0")
    with pytest.raises(AgentError, match=f"AWS took back was {vanished}"):
        await volumes.create(KEYED)


@pytest.mark.parametrize("is_anew", [False, True])
async def test_tokens_used_otherwise_are_waited_for_once(*, is_anew: bool) -> None:
    """Each may hide a volume that is not described yet; what was waited for in vain is not there."""
    ec2 = Ec2()
    volumes = ec2.start()
    used = CreateVolume("", "us-west-2a", 9, "gp3", ())
    for number in range(1, 4):
        hidden = ec2.add()
        ec2.tokens[make_token("pvc-1", number)] = used, hidden
    ec2.refusals["CreateVolume"] = [("IdempotentParameterMismatch", "used otherwise")] * 3 + [
        ("InsufficientVolumeCapacity", "no room")
    ] * 2
    with pytest.raises(AgentError, match="no room"):
        await volumes.create(replace(CALL, requisite=(IN_A,), preferred=()))
    began_s = ec2.time_s
    if is_anew:
        volumes = ec2.start()
    ec2.refusals.clear()
    await volumes.create(replace(CALL, requisite=(IN_A,), preferred=()))
    assert (ec2.time_s - began_s > 3 * LAG_S) is is_anew


async def test_a_volume_under_a_token_that_was_passed_over_is_found_by_its_name() -> None:
    """It is described late, with its tags: none is made beside it."""
    ec2 = Ec2()
    volumes = ec2.start()
    await use_up_tokens(ec2, volumes)
    ec2.lost, ec2.lag_s = {len(ec2.changes) + 1}, 5.0
    with pytest.raises(AgentError):
        await volumes.create(KEYED)
    made = await volumes.create(KEYED)
    assert list(ec2.volumes) == [made.volume.volume_id]


def test_names_whose_tokens_are_known_are_bounded() -> None:
    tokens, asked = Tokens(), CreateVolume("", "us-west-2a", 9, "gp3", ())
    for number in range(MOST_NAMES + 1):
        tokens.note_burnt(f"pvc-{number}", 1)
    firsts = [next(tokens.list_unused(name, asked))[0] for name in ("pvc-0", "pvc-1")]
    assert firsts == [1, 2]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"size": SizeRange(6 * GIB)}, "has 5 GiB"),
        ({"size": SizeRange(GIB, 4 * GIB)}, "has 5 GiB"),
        ({"performance": Performance("io2", 100)}, "of type gp3"),
        ({"source": CopySource(SNAPSHOT)}, "made from nothing"),
        ({"is_encrypted": True}, "not encrypted"),
        ({"requisite": (IN_B,), "preferred": ()}, "is in us-west-2a"),
        ({"is_multi_attach": True}, "for one node only"),
    ],
)
def test_another_volume_of_the_name_is_told_apart(change: dict[str, Any], why: str) -> None:
    ec2 = Ec2()
    create(ec2)
    with pytest.raises(DiffersError, match=why):
        create(ec2, replace(CALL, **change))
    assert len(ec2.volumes) == 1


@pytest.mark.parametrize(
    ("terms", "zone", "topology"),
    [
        ((((ID, "usw2-az1"),),), "us-west-2b", ((ID, "usw2-az1"),)),
        ((((ID, "usw2-az1"), (ZONE, "us-west-2b")),), "us-west-2b", ((ID, "usw2-az1"), (ZONE, "us-west-2b"))),
        ((((ID, "usw2-az1"), (ZONE, "us-west-2a")), IN_A), "us-west-2a", IN_A),
        ((((ID, "usw2-az9"),), IN_B), "us-west-2b", IN_B),
        (
            ((("topology.ebs.csi.aws.com/zone", "us-west-2b"),),),
            "us-west-2b",
            (("topology.ebs.csi.aws.com/zone", "us-west-2b"),),
        ),
    ],
)
def test_zones_are_asked_for_by_name_or_by_id(terms: Any, zone: str, topology: Any) -> None:
    """What names two zones, or an ID that the account has not, is passed over."""
    made = create(Ec2(), replace(CALL, requisite=(), preferred=terms))
    assert (made.volume.zone, made.topology) == (zone, topology)


def test_a_zone_that_is_not_there_is_an_error() -> None:
    with pytest.raises(AgentError, match="no zone that this account has") as raised:
        create(Ec2(), replace(CALL, requisite=(((ID, "usw2-az9"),),), preferred=()))
    assert raised.value.reason is Reason.WRONG_ZONE


def test_without_a_topology_any_ordinary_zone_will_do_and_the_same_each_time() -> None:
    call = replace(CALL, requisite=(), preferred=())
    zones = {create(Ec2(), replace(call, name=f"pvc-{one}")).volume.zone for one in range(20)}
    assert zones == {"us-west-2a", "us-west-2b"}
    assert len({create(Ec2(), call).volume.zone for _ in range(5)}) == 1


def test_zones_are_asked_of_aws_only_where_names_do_not_do() -> None:
    ec2 = Ec2()
    create(ec2)
    assert not [one for one in ec2.looks if isinstance(one, DescribeAvailabilityZones)]


def test_what_is_required_outweighs_what_is_preferred() -> None:
    assert create(Ec2(), replace(CALL, requisite=(IN_B,))).volume.zone == "us-west-2b"


def test_full_zones_are_told_when_none_is_left() -> None:
    with pytest.raises(AgentError, match="no room in us-west-2a") as raised:
        create(Ec2(full_zones={"us-west-2a", "us-west-2b"}))
    assert getattr(raised.value, "code", None) == "InsufficientVolumeCapacity"


def test_a_quota_that_is_used_up_tries_no_other_zone() -> None:
    ec2 = Ec2(refusals={"CreateVolume": [("VolumeLimitExceeded", "too many")]})
    with pytest.raises(AgentError, match="quota"):
        create(ec2)
    assert len(ec2.changes) == 1


@pytest.mark.parametrize("answered", ["creating", "available"])
def test_a_volume_that_vanishes_names_its_key(answered: str) -> None:
    """Whatever AWS answered: it is there when it is described."""
    ec2 = Ec2(broken_keys={"alias/gone"}, answered_state=answered)
    call = replace(CALL, is_encrypted=True, kms_key_id="alias/gone")
    with pytest.raises(AgentError, match="took it back") as raised:
        create(ec2, call)
    assert "alias/gone" in str(raised.value.hint)
    ec2.broken_keys.clear()
    assert create(ec2, call).volume.state == "available"


def test_a_volume_in_error_names_its_key_and_is_not_made_twice() -> None:
    ec2 = Ec2()
    volume_id = create(ec2).volume.volume_id
    ec2.volumes[volume_id] = replace(ec2.volumes[volume_id], state="error")
    with pytest.raises(AgentError, match="in state error") as raised:
        create(ec2)
    assert "default key" in str(raised.value.hint)
    assert len(ec2.volumes) == 1


@pytest.mark.parametrize(
    ("size", "kind", "gib"),
    [
        (SizeRange(), "gp3", 100),
        (SizeRange(limit_bytes=7 * GIB), "gp3", 7),
        (SizeRange(1), "gp3", 1),
        (SizeRange(GIB + 1), "gp3", 2),
        (SizeRange(GIB + 1, 2 * GIB), "gp3", 2),
        (SizeRange(), "st1", 125),
        (SizeRange(GIB + 1, 2 * GIB - 1), "gp3", None),
        (SizeRange(limit_bytes=GIB - 1), "gp3", None),
        (SizeRange(GIB), "io2", None),
        (SizeRange(65_537 * GIB), "gp3", None),
    ],
)
def test_sizes_are_whole_gibibytes_within_range_and_type(size: SizeRange, kind: str, gib: int | None) -> None:
    call = replace(CALL, size=size, performance=Performance(kind))
    if gib is None:
        with pytest.raises(SizeError):
            create(Ec2(), call)
    else:
        assert create(Ec2(), call).volume.size_gib == gib


@pytest.mark.parametrize(
    ("asked", "size_gib", "iops"),
    [
        (Performance("gp3"), 5, None),
        (Performance("gp3", 4000), 10, 4000),
        (Performance("gp3", 9000), 10, 5000),
        (Performance("io1", iops_per_gib=10), 20, 200),
        (Performance("io1", iops_per_gib=99), 20, 1000),
        (Performance("io2", iops_per_gib=1000), 1000, 256_000),
        (Performance("io1", iops_per_gib=10, may_raise_iops=True), 4, 100),
        (Performance("gp3", iops_per_gib=1, may_raise_iops=True), 4, 3000),
        (Performance("io1", iops_per_gib=10), 4, "100 at least"),
        (Performance("gp3", 100), 4, "3000 at least"),
    ],
)
def test_iops_are_clamped_or_refused(asked: Performance, size_gib: int, iops: int | str | None) -> None:
    call = replace(CALL, size=SizeRange(size_gib * GIB), performance=asked)
    if isinstance(iops, str):
        with pytest.raises(InvalidValueError, match=iops):
            create(Ec2(), call)
    else:
        assert create(Ec2(), call).volume.iops == iops


@pytest.mark.parametrize(
    ("asked", "size_gib", "iops"),
    [
        (Performance("gp2", 3000), 4, None),
        (Performance("gp2", iops_per_gib=50, throughput_mib=500), 4, None),
        (Performance("st1", 100, throughput_mib=500), 500, None),
        (Performance("standard", throughput_mib=1), 4, None),
        (Performance("io2", 3000, throughput_mib=500), 4, 3000),
    ],
)
def test_numbers_that_a_type_does_not_have_are_passed_over(
    asked: Performance, size_gib: int, iops: int | None
) -> None:
    """StorageClasses with them work with AWS's driver."""
    volume = create(Ec2(), replace(CALL, size=SizeRange(size_gib * GIB), performance=asked)).volume
    assert (volume.type, volume.iops, volume.throughput) == (asked.type, iops, None)


def test_a_volume_of_a_snapshot_has_its_size_at_least_and_waits_for_it() -> None:
    ec2, call = Ec2(), replace(CALL, source=CopySource(SNAPSHOT))
    pending = CloudSnapshot(SNAPSHOT, "vol-0", "pending", "2026-01-01", 40, 8)
    ec2.snapshots[SNAPSHOT] = pending
    with pytest.raises(AgentError, match="40 % done") as raised:
        create(ec2, call)
    assert raised.value.reason is Reason.WAITING_FOR_CLOUD
    ec2.snapshots[SNAPSHOT] = replace(pending, state="completed")
    with pytest.raises(SizeError):
        create(ec2, replace(call, size=SizeRange(5 * GIB, 6 * GIB)))
    made = create(ec2, call)
    assert (made.volume.size_gib, made.volume.snapshot_id) == (8, SNAPSHOT)
    assert made.source == call.source


def test_a_copy_is_made_in_the_zone_of_its_source() -> None:
    ec2 = Ec2()
    source = ec2.add(zone="us-west-2b", size_gib=9)
    call = replace(CALL, source=CopySource(volume_id=source))
    made = create(ec2, call)
    assert (made.volume.zone, made.volume.size_gib, made.topology) == ("us-west-2b", 9, IN_B)
    assert isinstance(ec2.changes[0], CopyVolumes)
    assert create(ec2, call).volume.volume_id == made.volume.volume_id
    with pytest.raises(AgentError, match="is in us-west-2b") as raised:
        create(ec2, replace(call, name="pvc-2", requisite=(IN_A,), preferred=()))
    assert raised.value.reason is Reason.WRONG_ZONE
    with pytest.raises(NoSuchThingError):
        create(
            ec2, replace(call, name="pvc-3", source=CopySource(volume_id=VolumeId("vol-0fffffffffffffff0")))
        )


def test_too_many_tags_are_refused_before_anything_is_made() -> None:
    ec2 = Ec2()
    for tags in (tuple((f"t{one}", "") for one in range(48)), (("k" * 129, ""),), (("k", "v" * 257),)):
        with pytest.raises(InvalidValueError):
            create(ec2, replace(CALL, tags=tags))
    assert ec2.changes == []


def test_many_claims_at_once_share_their_looks() -> None:
    ec2 = Ec2()

    async def run() -> None:
        volumes = ec2.start()
        await asyncio.gather(*(volumes.create(replace(CALL, name=f"pvc-{one}")) for one in range(100)))

    asyncio.run(run())
    assert len(ec2.volumes) == 100
    assert len([one for one in ec2.looks if isinstance(one, DescribeVolumes)]) < 100


def test_a_volume_of_the_name_that_another_cluster_has_is_not_taken() -> None:
    """A cluster that was restored from another's backup asks for its claims by the same names."""
    ec2 = Ec2()
    asyncio.run(ec2.start("prod").create(CALL))
    with pytest.raises(DiffersError, match="is cluster prod's"):
        asyncio.run(ec2.start("drill").create(CALL))
    assert len(ec2.volumes) == 1


def test_a_source_that_is_not_described_yet_is_there() -> None:
    """A final answer would have the claim let go of."""
    ec2 = Ec2()
    source = ec2.add()
    ec2.lag_s, ec2.made_at_s[source] = 5.0, ec2.time_s
    made = create(ec2, replace(CALL, source=CopySource(volume_id=source)))
    assert made.volume.volume_id != source


COMPLETED = CloudSnapshot(SNAPSHOT, "vol-0", "completed", "2026-01-01", 100, 8)


@pytest.mark.parametrize("is_copy", [False, True])
@pytest.mark.parametrize("lag_s", [0.0, 8.0])
def test_a_volume_that_was_made_before_its_source_was_deleted_is_found(
    lag_s: float, *, is_copy: bool
) -> None:
    """Though it is described late: a final answer would leave it behind."""
    ec2 = Ec2(lag_s=lag_s, kill=(0, True), snapshots={SNAPSHOT: COMPLETED})
    source = ec2.add()
    call = replace(CALL, source=CopySource(volume_id=source) if is_copy else CopySource(SNAPSHOT))
    with pytest.raises(KilledError):
        create(ec2, call)
    del ec2.volumes[source]
    ec2.snapshots.clear()
    ec2.tokens.clear()
    made = create(ec2, call)
    assert list(ec2.volumes) == [made.volume.volume_id]


@pytest.mark.parametrize("code", ["InvalidSnapshot.NotFound", "InvalidVolume.NotFound"])
def test_a_source_that_one_host_of_aws_does_not_know_is_tried_once_more(code: str) -> None:
    ec2 = Ec2(snapshots={SNAPSHOT: COMPLETED})
    operation, source = "CreateVolume", CopySource(SNAPSHOT)
    if code == "InvalidVolume.NotFound":
        operation, source = "CopyVolumes", CopySource(volume_id=ec2.add())
    ec2.refusals[operation] = [(code, "not there")]
    made = create(ec2, replace(CALL, source=source))
    assert made.volume.state == "available"


def test_a_snapshot_that_is_described_late_says_the_size_all_the_same() -> None:
    ec2 = Ec2(lag_s=8.0, snapshots={SNAPSHOT: COMPLETED}, taken_at_s={SNAPSHOT: 1000.0})
    assert create(ec2, replace(CALL, source=CopySource(SNAPSHOT))).volume.size_gib == 8


def test_a_source_that_is_proven_missing_is_told() -> None:
    ec2 = Ec2()
    with pytest.raises(AgentError) as raised:
        create(ec2, replace(CALL, source=CopySource(SNAPSHOT)))
    assert getattr(raised.value, "code", None) == "InvalidSnapshot.NotFound"
    assert [one.operation for one in ec2.changes] == ["CreateVolume", "CreateVolume"]
    assert ec2.volumes == {}
