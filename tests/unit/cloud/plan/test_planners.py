from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from agent.cloud.aws.calls import (
    AttachClusterNodeVolume,
    AttachVolume,
    CreateTags,
    DeleteVolume,
    DetachClusterNodeVolume,
    ModifyVolume,
)
from agent.cloud.aws.iam_statements import STATEMENTS
from agent.cloud.aws.making_calls import CreateVolume
from agent.cloud.aws.models import (
    CloudAttachment,
    CloudVolume,
    ClusterNode,
    Modification,
    find_instance_in_resource,
    parse_volume,
)
from agent.cloud.identity.whoami import CloudIdentity, Orchestrator
from agent.cloud.permissions.iam_policy import (
    list_operations,
    make_iam_policy,
    make_kms_policy,
    makes_encrypted,
)
from agent.cloud.plan.attach_volume import choose_volume, plan_attach, plan_detach
from agent.cloud.plan.claims.claim_removed import plan_removed
from agent.cloud.plan.claims.find_or_make import plan_claim
from agent.cloud.plan.claims.wanted_volume import WantedVolume, check_kms_key, want_volume
from agent.cloud.plan.decisions import AttachApi, Do, NodeView, Release, Settled, choose_attach_api
from agent.cloud.plan.instance_gone import is_absent
from agent.cloud.plan.modify_volume import plan_expand, plan_modify, plan_tags
from agent.cloud.state.made_volumes import Making, note_burnt, note_described, note_made, note_mismatch
from agent.core.errors import AgentError
from agent.core.model import Reason, VolumeId
from agent.core.replace import replace
from agent.core.steps import Refuse, Wait
from agent.policy.entries import Claim, VolumeClass, VolumeType
from agent.policy.reading import load_policy
from agent.policy.values.build import build_section

VOLUME = VolumeId("vol-0123456789abcdef0")
ME = "i-0123456789abcdef0"
OTHER = "i-0fedcba9876543210"
ARN = "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz"
IDENTITY = CloudIdentity(ARN, "compute", "compute-1", ME, "us-west-2", "111122223333", "us-west-2a", "aws")
NODE = NodeView(IDENTITY, AttachApi.HYPERPOD)
FREE = CloudVolume(VOLUME, "available", 5, "gp3", "us-west-2a", iops=3000, throughput=125)
START = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
LATER = START + timedelta(days=1)
WANTED = WantedVolume("ckpt", "abcde01234yz", "compute-1", "us-west-2a", "gp3", 5)
MINE = replace(FREE, tags=WANTED.all_tags)


def held(state: str, by: str, **changes: object) -> CloudVolume:
    return replace(FREE, state="in-use", attachments=(CloudAttachment(state, by),), **changes)  # type: ignore[arg-type]  # a test's shorthand


@pytest.mark.parametrize(
    ("volume", "node", "expected"),
    [
        (FREE, NODE, AttachClusterNodeVolume(ARN, ME, VOLUME)),
        (FREE, replace(NODE, api=AttachApi.EC2), AttachVolume(ME, VOLUME, "/dev/sdf")),
        (
            FREE,
            replace(NODE, api=AttachApi.EC2, used_names=frozenset({"/dev/sdf", "/dev/sdg"})),
            AttachVolume(ME, VOLUME, "/dev/sdh"),
        ),
        (FREE, replace(NODE, api=AttachApi.NONE), Reason.NOT_ATTACHED),
        (FREE, replace(NODE, devices=frozenset({VOLUME})), Settled),
        (replace(FREE, state="creating"), NODE, Reason.WAITING_FOR_CLOUD),
        (replace(FREE, state="error"), NODE, Reason.CLOUD_ERROR),
        (replace(FREE, state="deleting"), NODE, Reason.NOT_ATTACHED),
        (replace(FREE, zone="us-west-2b"), NODE, Reason.WRONG_ZONE),
        (replace(FREE, tags=(("CSIVolumeName", "pvc-1"),)), NODE, Reason.MANAGED_BY_CSI),
        (held("attached", ME), NODE, Reason.NOT_ATTACHED),
        (held("attached", ME), replace(NODE, devices=frozenset({VOLUME})), Settled),
        (held("attaching", ME), NODE, Reason.NOT_ATTACHED),
        (held("detaching", ME), NODE, Reason.WAITING_FOR_CLOUD),
        (held("busy", ME), NODE, Reason.WAITING_FOR_CLOUD),
        (held("attached", OTHER), NODE, Reason.ATTACHED_ELSEWHERE),
        (held("attached", OTHER), replace(NODE, gone=frozenset({OTHER})), Reason.ATTACHED_ELSEWHERE),
        (held("attached", OTHER, is_multi_attach=True), NODE, AttachClusterNodeVolume(ARN, ME, VOLUME)),
    ],
)
def test_attach(volume: CloudVolume, node: NodeView, expected: object) -> None:
    """What is done about each state of a volume that a policy names by ID."""
    decision = plan_attach(volume, node)
    if isinstance(expected, Reason):
        assert isinstance(decision, (Wait, Refuse))
        assert decision.reason is expected
    elif isinstance(decision, Do):
        assert decision.call == expected
    else:
        assert type(decision) is expected


@pytest.mark.parametrize("gone", [frozenset(), frozenset({OTHER})])
@pytest.mark.parametrize("may_take_over", [False, True])
@pytest.mark.parametrize("state", ["attached", "attaching", "busy"])
def test_only_gone_holders_are_relieved(gone: frozenset[str], state: str, *, may_take_over: bool) -> None:
    """A volume is detached from another instance only if it is a claim's and the instance is proven gone."""
    decision = plan_attach(held(state, OTHER), replace(NODE, gone=gone), may_take_over=may_take_over)
    is_taken = isinstance(decision, Do) and isinstance(decision.call, DetachClusterNodeVolume)
    assert is_taken is (may_take_over and OTHER in gone)


def test_detach_releases_first() -> None:
    """A volume is unmounted before it is detached, and is gone only when API and device agree."""
    volume = held("attached", ME)
    node = replace(NODE, devices=frozenset({VOLUME}))
    assert plan_detach(volume, node, is_released=False) == Release(VOLUME)
    assert plan_detach(volume, node, is_released=True) == Do(DetachClusterNodeVolume(ARN, ME, VOLUME))
    assert isinstance(plan_detach(held("detaching", ME), node, is_released=True), Wait)
    assert plan_detach(FREE, NODE, is_released=False) is None


def test_nodes_agree_on_what_is_here() -> None:
    """The volume that is here already is preferred to any other with the same tags."""
    here = replace(held("attached", ME), volume_id=VolumeId("vol-0000000000000000a"))
    assert choose_volume([FREE, here], NODE) == here
    assert choose_volume([held("attached", OTHER), FREE], NODE) == FREE
    assert choose_volume([], NODE) is None


@pytest.mark.parametrize(
    ("resource", "instance_id"),
    [
        (f"arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz-{ME}", ME),
        ("arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz-i-123", None),
        (f"arn:aws:ec2:us-west-2:111122223333:instance/{ME}", None),
        (None, None),
    ],
)
def test_hyperpod_holder_is_read_from_its_resource(resource: str | None, instance_id: str | None) -> None:
    """DescribeVolumes shows no instance ID for HyperPod's nodes; the resource's name ends in it."""
    assert find_instance_in_resource(resource) == instance_id


@pytest.mark.parametrize("missing", ["VolumeId", "State", "Size", "AvailabilityZone"])
def test_incomplete_description_is_an_error(missing: str) -> None:
    """A described volume without what decisions hang on is an error, not a default."""
    members = {
        "VolumeId": VOLUME,
        "State": "available",
        "Size": 1,
        "VolumeType": "gp3",
        "AvailabilityZone": "a",
    }
    del members[missing]
    with pytest.raises(AgentError, match=missing):
        parse_volume(members)


# -- Claims --------------------------------------------------------------------------------------------------


def test_token_is_the_claims_own() -> None:
    """Whoever plans the same claim derives the same token; other claims, nodes and generations another."""
    tokens = {
        wanted.make_token(generation)
        for wanted in (
            WANTED,
            replace(WANTED, name="x"),
            replace(WANTED, node="y"),
            replace(WANTED, cluster="z"),
        )
        for generation in (0, 1)
    }
    assert len(tokens) == 8
    assert replace(WANTED, size_gib=9, type="io2").make_token(0) == WANTED.make_token(0)
    assert all(len(token) == 64 for token in tokens)  # EC2's limit for a client token


def test_claim_steps() -> None:
    """Make, wait until described, attach; AWS is asked by the same token what became of one not described."""
    now_s = 10_000.0
    call = plan_creation(Making(), now_s)
    assert call.client_token == WANTED.make_token(0)
    made = note_made(call, Making(), FREE, now_s)
    assert isinstance(plan_claim(WANTED, {}, NODE, made, now_s + 20), Wait)
    assert plan_creation(made, now_s + 40) == call
    mine = {VOLUME: MINE}
    assert plan_claim(WANTED, mine, NODE, made, now_s) == Do(AttachClusterNodeVolume(ARN, ME, VOLUME))


def plan_creation(making: Making, now_s: float = 0.0) -> CreateVolume:
    """Return the call by which a claim without a described volume has one made."""
    decision = plan_claim(WANTED, {}, NODE, making, now_s)
    assert isinstance(decision, Do), decision
    assert isinstance(decision.call, CreateVolume)
    return decision.call


def test_lost_volume_is_made_anew_once() -> None:
    """A volume AWS says is deleted is made anew; another that goes the same way waits for a person."""
    seen = note_described(Making(), MINE, {VOLUME: MINE})
    call = plan_creation(seen)
    assert call.client_token == WANTED.make_token(0)
    lost = note_burnt(call, seen)
    assert (lost.lost, lost.generation) == ((VOLUME,), 1)
    other = replace(MINE, volume_id=VolumeId("vol-0000000000000000b"))
    again = note_described(note_made(plan_creation(lost), lost, other, 0.0), other, {})
    assert again.lost == (VOLUME,)
    refusal = plan_claim(WANTED, {}, NODE, again, 0.0)
    assert isinstance(refusal, Refuse)
    assert VOLUME in refusal.message
    assert other.volume_id in refusal.message


def test_forgotten_token_makes_one_in_place_of_a_lost_volume() -> None:
    """Where AWS has forgotten the token, its answer is a new volume: that the old one is lost is told."""
    seen = note_described(Making(), MINE, {VOLUME: MINE})
    other = replace(FREE, volume_id=VolumeId("vol-0000000000000000b"))
    made = note_made(plan_creation(seen), seen, other, 0.0)
    assert (made.volume_id, made.lost, made.has_vanished) == (other.volume_id, (VOLUME,), False)


def test_vanishing_volume_is_made_anew_once() -> None:
    """A volume that vanishes before it is described is made anew once, and then the KMS key is named."""
    making, wanted = Making(), replace(WANTED, kms_key_id="alias/k")
    for number in range(2):
        volume = replace(FREE, volume_id=VolumeId(f"vol-0000000000000000{number}"))
        making = note_made(plan_creation(making, 100.0 * number), making, volume, 100.0 * number)
        making = note_burnt(plan_creation(making, 100.0 * number + 50), making)
    refusal = plan_claim(wanted, {}, NODE, making, 300.0)
    assert isinstance(refusal, Refuse)
    assert "KMS key alias/k" in refusal.message
    assert "kms:CreateGrant" in str(refusal.hint)


def test_burnt_tokens_are_passed_over_and_bounded() -> None:
    """Tokens used up before this process are passed over without a word, but not without end."""
    making = Making()
    for generation in range(20):
        call = plan_creation(making)
        assert call.client_token == WANTED.make_token(generation)
        making = note_burnt(call, making)
    assert making.lost == ()
    assert isinstance(plan_claim(WANTED, {}, NODE, making, 0.0), Refuse)


def test_token_of_another_wording_waits_before_it_counts_as_burnt() -> None:
    """A token that was used with other parameters has its volume, unless none is described for long."""
    making = note_mismatch(plan_creation(Making()), Making(), 0.0)
    assert isinstance(plan_claim(WANTED, {}, NODE, making, 10.0), Wait)
    making = note_mismatch(plan_creation(making, 60.0), making, 60.0)
    assert making.generation == 0
    making = note_mismatch(plan_creation(making, 1000.0), making, 1000.0)
    assert making.generation == 1


def test_volume_without_its_tags_is_told() -> None:
    """A claim's volume whose tags were taken away is neither used nor replaced by a blank one."""
    seen = note_described(Making(), MINE, {VOLUME: MINE})
    decision = plan_claim(WANTED, {VOLUME: FREE}, NODE, seen, 0.0)
    assert isinstance(decision, Refuse)
    assert VOLUME in decision.message


def test_foreign_tags_are_no_claim() -> None:
    """A volume of another cluster, node or claim, or made by someone else, is not taken for the claim's."""
    for key in ("cluster", "claim", "node", "made-by"):
        tags = tuple((name, "x" if name == f"ebs-agent:{key}" else value) for name, value in WANTED.all_tags)
        decision = plan_claim(WANTED, {VOLUME: replace(FREE, tags=tags)}, NODE, Making(), 0.0)
        assert isinstance(decision, Do)
        assert isinstance(decision.call, CreateVolume)


@pytest.mark.parametrize("rule", ["retain", "Delete", "", "delete "])
def test_only_the_exact_word_deletes(rule: str) -> None:
    """Whatever else the tag says, the volume is retained."""
    tags = tuple((name, rule if name == "ebs-agent:on-delete" else value) for name, value in WANTED.all_tags)
    orphan = replace(FREE, tags=tags)
    assert plan_removed(orphan, (), NODE, is_released=False, now=START, deadline=START) is None


def test_orphan_on_another_node_is_left() -> None:
    """A volume that is in use elsewhere is not this node's to drop."""
    orphan = replace(held("attached", OTHER), tags=replace(WANTED, on_delete="delete").all_tags)
    assert plan_removed(orphan, (), NODE, is_released=False, now=START, deadline=START) is None


def test_orphan_goes_when_its_time_has_come() -> None:
    """First the time of the deletion is written on the volume; only when it has passed the volume goes."""
    tags = replace(WANTED, on_delete="delete").all_tags
    orphan = replace(FREE, tags=tags)
    marked = replace(FREE, tags=(*tags, ("ebs-agent:delete-after", "2026-11-02T12:00:00Z")))

    def plan(volume: CloudVolume, now: datetime) -> object:
        return plan_removed(volume, (), NODE, is_released=False, now=now, deadline=LATER)

    written = (("ebs-agent:delete-after", "2026-11-02T12:00:00Z"),)
    assert plan(orphan, START) == Do(CreateTags(VOLUME, written))
    assert plan(marked, START) is None
    assert plan(marked, START + timedelta(days=1)) == Do(DeleteVolume(VOLUME))
    for nonsense in ("", "soon", "2026-11-02"):
        unreadable = replace(FREE, tags=(*tags, ("ebs-agent:delete-after", nonsense)))
        assert plan(unreadable, START) == Do(CreateTags(VOLUME, written))


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("arn:aws:kms:us-west-2:999999999999:key/abc", "belongs to account 999999999999"),
        ("arn:aws:s3:::bucket", "not the ARN of a KMS key"),
    ],
)
def test_foreign_kms_key(key: str, message: str) -> None:
    """A KMS key of another account, or an ARN of something else, is refused before anything is made."""
    with pytest.raises(AgentError, match=message) as raised:
        check_kms_key("ckpt", key, "111122223333")
    assert not raised.value.retryable


def test_own_kms_key_passes() -> None:
    """Keys of this account, IDs and aliases are taken as they are."""
    for key in (None, "alias/ebs", "1234abcd-12ab", "arn:aws:kms:us-west-2:111122223333:key/abc"):
        check_kms_key("ckpt", key, "111122223333")


POLICY = """version: 1
classes:
  fast: {type: io2, iops_per_gib: 10, kms_key_id: alias/k, tags: {owner: "{instance_group}/{name}"}}
volumes:
  - name: ckpt
    claim: {class: fast, size: 500GiB, on_delete: snapshot}
    filesystem: {type: ext4, format: if-blank}
    mount: {path: /data/ckpt}
    snapshots: {schedule: "0 * * * *", keep: 2}
"""


def test_class_is_filled_in(tmp_path: Path) -> None:
    """IOPS by size, encryption that a key implies, and templates of tags are worked out for this node."""
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY, "utf-8")
    policy = load_policy(path, trust_owner=True)
    (entry,) = policy.volumes
    assert entry.claim is not None
    wanted = want_volume(entry.name, entry.claim, policy.classes["fast"], NODE)
    assert (wanted.iops, wanted.is_encrypted, wanted.zone) == (5000, True, "us-west-2a")
    assert dict(wanted.tags) == {"owner": "compute/ckpt"}


@pytest.mark.parametrize(
    ("kind", "iops_per_gib", "size_gib", "iops"),
    [("gp3", 10, 8, 3000), ("gp3", 10, 500, 5000), ("io2", 10, 8, 100), ("io1", 50, 8, 400)],
)
def test_iops_by_size_are_no_fewer_than_ec2_gives(
    kind: VolumeType, iops_per_gib: int, size_gib: int, iops: int
) -> None:
    """A small volume gets EC2's least, which it would refuse to undercut."""
    volume_class = VolumeClass(type=kind, iops_per_gib=iops_per_gib)
    claim = build_section(Claim, {"class": "c", "size": f"{size_gib}GiB"})
    assert want_volume("ckpt", claim, volume_class, NODE).iops == iops


# -- Modifications -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, None),
        ({"size_gib": 6}, ModifyVolume(VOLUME, size_gib=6)),
        ({"iops": 4000}, ModifyVolume(VOLUME, iops=4000)),
        ({"iops": 3000, "throughput": 125}, None),
        ({"throughput": 250}, ModifyVolume(VOLUME, throughput=250)),
        ({"type": "io2", "iops": 3000}, ModifyVolume(VOLUME, type="io2", iops=3000)),
        ({"size_gib": None}, None),
    ],
)
def test_modification_sends_what_changed(wanted: dict[str, object], expected: object) -> None:
    """Only what differs is sent, and nothing where nothing differs."""
    changed = replace(WANTED, **wanted)  # type: ignore[arg-type]  # a test's shorthand
    planned = plan_modify(MINE, changed, None)
    assert (planned.call if isinstance(planned, Do) else planned) == expected


def test_modification_waits_for_the_last() -> None:
    """A volume that is being modified is not modified again; its progress is told."""
    under_way = Modification(VOLUME, "optimizing", 40)
    planned = plan_modify(MINE, replace(WANTED, size_gib=6), under_way)
    assert isinstance(planned, Wait)
    assert "40 %" in planned.message


def test_tags_follow_without_a_modification() -> None:
    """Changed tags are set by themselves; they do not count against the quota."""
    changed = replace(WANTED, tags=(("tier", "b"),))
    assert plan_modify(MINE, changed, None) is None
    planned = plan_tags(MINE, changed)
    assert planned == Do(CreateTags(VOLUME, (("tier", "b"),)))


def test_nothing_shrinks() -> None:
    """A smaller size is refused, from the policy and from the command line."""
    assert isinstance(plan_modify(MINE, replace(WANTED, size_gib=4), None), Refuse)
    assert isinstance(plan_expand(FREE, 4, None), Refuse)
    assert plan_expand(FREE, 5, None) is None
    assert plan_expand(FREE, 6, None) == ModifyVolume(VOLUME, size_gib=6)


# -- Proof of absence, and permissions -----------------------------------------------------------------------


def test_absence_needs_the_right_list() -> None:
    """An instance is absent only from a list in which we find ourselves."""
    me, other = ClusterNode(ME, "g", "Running"), ClusterNode(OTHER, "g", "ShuttingDown")
    assert is_absent((me,), OTHER, ME)
    assert not is_absent((), OTHER, ME)
    assert not is_absent((me, other), OTHER, ME)
    assert is_absent((me, replace(other, status="NotFound")), OTHER, ME)


@pytest.mark.parametrize(
    ("configured", "identity", "api"),
    [
        ("auto", IDENTITY, AttachApi.HYPERPOD),
        ("auto", replace(IDENTITY, cluster_arn=None), AttachApi.EC2),
        ("auto", CloudIdentity(), AttachApi.NONE),
        ("auto", replace(IDENTITY, orchestrator=Orchestrator.EKS), AttachApi.HYPERPOD),
        ("auto", replace(IDENTITY, orchestrator=Orchestrator.SLURM), AttachApi.NONE),
        ("hyperpod", replace(IDENTITY, orchestrator=Orchestrator.SLURM), AttachApi.HYPERPOD),
        ("none", IDENTITY, AttachApi.NONE),
        ("ec2", IDENTITY, AttachApi.EC2),
    ],
)
def test_attach_api_is_chosen(configured: str, identity: CloudIdentity, api: AttachApi) -> None:
    """Auto means HyperPod's API on a cluster's node, EC2's elsewhere, none where nothing is known."""
    assert choose_attach_api(configured, identity) is api


def test_slurm_cluster_is_told_what_does_not_work() -> None:
    """Where Slurm orchestrates, nothing is asked of AWS, no volume is made, and one sentence says why."""
    node = replace(NODE, identity=replace(IDENTITY, orchestrator=Orchestrator.SLURM), api=AttachApi.NONE)
    attached = plan_attach(FREE, node)
    claimed = plan_claim(WANTED, {}, node, Making(), 0.0)
    for decision in (attached, claimed):
        assert isinstance(decision, Wait)
        assert decision.reason is Reason.ATTACH_UNSUPPORTED
        assert "Slurm" in decision.message
        assert "install-slurm" in str(decision.hint)
    here = replace(node, devices=frozenset({VOLUME}))
    assert isinstance(plan_attach(FREE, here), Settled), "what comes by other means is used"


def test_policy_gets_its_least_permissions(tmp_path: Path) -> None:
    """Each feature of the policy file adds its own actions, and nothing else is asked for."""
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY, "utf-8")
    document = make_iam_policy(load_policy(path, trust_owner=True), IDENTITY, AttachApi.HYPERPOD)
    actions = {action for statement in document["Statement"] for action in statement["Action"]}
    assert actions == {
        "ec2:AttachVolume", "ec2:CreateSnapshot", "ec2:CreateTags", "ec2:CreateVolume", "ec2:DeleteSnapshot",
        "ec2:DeleteVolume", "ec2:DescribeSnapshots", "ec2:DescribeVolumes", "ec2:DetachVolume",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeVolumeStatus", "ec2:DescribeVolumesModifications", "ec2:ModifyVolume",
        "eks:DescribeCluster",
        "sagemaker:AttachClusterNodeVolume",
        "sagemaker:DescribeClusterNode", "sagemaker:DetachClusterNodeVolume", "sagemaker:ListClusterNodes",
    }  # fmt: skip
    for statement in document["Statement"]:
        if {"ec2:DeleteVolume", "ec2:DeleteSnapshot", "ec2:ModifyVolume"} & set(statement["Action"]):
            assert statement["Condition"] == {
                "StringEquals": {"aws:ResourceTag/ebs-agent:made-by": "ebs-agent"}
            }
        if "sagemaker:AttachClusterNodeVolume" in statement["Action"]:
            assert statement["Resource"] == [ARN]


def test_local_policy_needs_nothing(tmp_path: Path) -> None:
    """A policy without volumes, and one that attaches by hand, need no permission."""
    path = tmp_path / "policy.yaml"
    path.write_text(
        f"version: 1\nvolumes:\n  - {{name: a, match: {{volume_id: {VOLUME}}}, block: {{}}}}\n", "utf-8"
    )
    policy = load_policy(path, trust_owner=True)
    assert list_operations(policy, AttachApi.NONE) == ()
    assert list_operations(policy, AttachApi.HYPERPOD) == (
        "DescribeVolumes", "DescribeVolumeStatus", "DescribeInstanceTypes", "AttachClusterNodeVolume",
        "DescribeClusterNode",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("agent", "operations"),
    [
        ("csi: {}", ("DescribeInstanceTypes",)),
        ("csi: {attach_limit: 20}", ()),
        ("csi: {enabled: false}", ()),
        ("csi: {}, cloud: {enabled: false}", ()),
    ],
)
def test_count_that_kubelet_is_told_needs_its_permission(
    tmp_path: Path, agent: str, operations: tuple[str, ...]
) -> None:
    """Where AWS tells it, and no volume is the policy's."""
    path = tmp_path / "policy.yaml"
    path.write_text(f"version: 1\nagent: {{{agent}}}\nvolumes: []\n", "utf-8")
    assert list_operations(load_policy(path, trust_owner=True), AttachApi.EC2) == operations


def test_other_partitions_get_their_arns(tmp_path: Path) -> None:
    """Resources are of the cluster's own partition, region and account."""
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY, "utf-8")
    china = replace(IDENTITY, cluster_arn=None, partition="aws-cn", region="cn-north-1")
    document = make_iam_policy(load_policy(path, trust_owner=True), china, AttachApi.HYPERPOD)
    resources = {resource for statement in document["Statement"] for resource in statement["Resource"]} - {
        "*"
    }
    assert all(resource.startswith("arn:aws-cn:") for resource in resources)


def test_key_policy_is_the_documented_one() -> None:
    """The grant is bound to the account, to EC2 in this region, and to EBS' own use."""
    grant = make_kms_policy(IDENTITY, "arn:aws:iam::111122223333:role/exec")["Statement"][1]
    assert grant["Condition"]["StringEquals"]["kms:ViaService"] == "ec2.us-west-2.amazonaws.com"
    assert grant["Condition"]["Bool"] == {"kms:GrantIsForAWSResource": True}


ROLE = "arn:aws:iam::111122223333:role/exec"


def test_key_policy_off_a_node_grants_what_it_says() -> None:
    """What is not known off a node is left open: IAM takes a star in StringEquals for a star."""
    for role in (ROLE, "ROLE_ARN"):
        for statement in make_kms_policy(CloudIdentity(), role)["Statement"]:
            equal = statement.get("Condition", {}).get("StringEquals", {})
            assert not any("*" in str(value) for value in equal.values())
    limits = make_kms_policy(CloudIdentity(), ROLE)["Statement"][1]["Condition"]
    assert limits["StringEquals"] == {"kms:CallerAccount": "111122223333"}
    assert limits["StringLike"] == {"kms:ViaService": "ec2.*.amazonaws.com"}
    assert limits["Bool"] == {"kms:GrantIsForAWSResource": True}


def test_key_policy_for_attaching_makes_nothing(tmp_path: Path) -> None:
    """Who only attaches encrypted volumes needs no data key; who makes them does."""
    attaching = make_kms_policy(IDENTITY, ROLE, creates_encrypted=False)["Statement"]
    assert [one["Action"] for one in attaching] == [["kms:DescribeKey"], ["kms:CreateGrant"]]
    path = tmp_path / "policy.yaml"
    for words, is_needed in (("kms_key_id: alias/k", True), ("encrypted: true", True), ("type: gp3", False)):
        path.write_text(
            f"version: 1\nclasses: {{c: {{{words}}}}}\nvolumes:\n"
            "  - {name: a, claim: {class: c, size: 1GiB}, block: {}}\n",
            "utf-8",
        )
        assert makes_encrypted(load_policy(path, trust_owner=True)) is is_needed


@pytest.mark.parametrize(("name", "resource"), [("prod-eks", "cluster/prod-eks"), (None, "cluster/*")])
def test_permission_is_for_the_one_eks_cluster(tmp_path: Path, name: str | None, resource: str) -> None:
    """Where the cluster's file names the EKS cluster, no other may be described."""
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY, "utf-8")
    identity = replace(IDENTITY, eks_cluster=name)
    document = make_iam_policy(load_policy(path, trust_owner=True), identity, AttachApi.HYPERPOD)
    [eks] = [one for one in document["Statement"] if "eks:DescribeCluster" in one["Action"]]
    assert eks["Resource"] == [f"arn:aws:eks:us-west-2:111122223333:{resource}"]


MOVED = f"{ARN.replace('abcde01234yz', 'zzzzz99999zz')}-{OTHER}"


@pytest.mark.parametrize(
    ("resource", "is_taken"), [(f"{ARN}-{OTHER}", True), (None, True), (MOVED, False)], ids=str
)
def test_holder_in_another_cluster_is_never_proven_gone(resource: str | None, *, is_taken: bool) -> None:
    """A node that was moved to another cluster runs on, though its own old cluster's list has it no more."""
    volume = replace(
        FREE, state="in-use", attachments=(CloudAttachment("attached", OTHER, resource=resource),)
    )
    decision = plan_attach(volume, replace(NODE, gone=frozenset({OTHER})), may_take_over=True)
    assert isinstance(decision, Do) is is_taken


def test_deletions_are_bound_to_the_agents_mark() -> None:
    """No statement lets the agent delete what does not carry its mark."""
    for operation in ("DeleteVolume", "DeleteSnapshot"):
        for statement in STATEMENTS[operation]:
            assert ("StringEquals", "aws:ResourceTag/ebs-agent:made-by", "ebs-agent") in statement.condition


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        (("",), {"ec2:CreateVolume"}),
        (("from: vol-0123456789abcdef0",), {"ec2:CopyVolumes"}),
        (("", "from: vol-0123456789abcdef0"), {"ec2:CreateVolume", "ec2:CopyVolumes"}),
    ],
    ids=["made", "copied", "both"],
)
def test_copies_need_their_own_permission(tmp_path: Path, sources: tuple[str, ...], wanted: set[str]) -> None:
    """Claims that are all copies need no permission to make empty volumes, and the other way round."""
    entries = [
        f"  - {{name: v{number}, claim: {{class: a, size: 5GiB, {source}}}, block: {{}}}}\n"
        for number, source in enumerate(sources)
    ]
    path = tmp_path / "policy.yaml"
    path.write_text("version: 1\nclasses: {a: {type: gp3}}\nvolumes:\n" + "".join(entries), "utf-8")
    document = make_iam_policy(load_policy(path, trust_owner=True), IDENTITY, AttachApi.HYPERPOD)
    actions = {action for statement in document["Statement"] for action in statement["Action"]}
    assert actions & {"ec2:CreateVolume", "ec2:CopyVolumes"} == wanted
    assert "ec2:CreateTags" in actions


def test_either_kind_of_node_is_served(tmp_path: Path) -> None:
    """For nodes that may be of HyperPod or of EC2 there is what either needs, each action once."""
    path = tmp_path / "policy.yaml"
    entry = "volumes: [{name: db, match: {volume_id: vol-0123456789abcdef0}, block: {}}]\n"
    path.write_text(f"version: 1\n{entry}", "utf-8")
    policy = load_policy(path, trust_owner=True)
    both = make_iam_policy(policy, CloudIdentity(), AttachApi.HYPERPOD, AttachApi.EC2)["Statement"]
    actions = {action for statement in both for action in statement["Action"]}
    for api in (AttachApi.HYPERPOD, AttachApi.EC2):
        needed = make_iam_policy(policy, CloudIdentity(), api)["Statement"]
        assert {action for statement in needed for action in statement["Action"]} <= actions
    assert {"sagemaker:AttachClusterNodeVolume", "ec2:AttachVolume"} <= actions
    groups = [(str(one["Resource"]), str(one.get("Condition"))) for one in both]
    assert len(groups) == len(set(groups))
    assert any("instance/*" in str(one["Resource"]) for one in both)


@pytest.mark.parametrize(
    ("api", "action"),
    [(AttachApi.HYPERPOD, "sagemaker:DetachClusterNodeVolume"), (AttachApi.EC2, "ec2:DetachVolume")],
)
@pytest.mark.parametrize("match", ["volume_id: vol-0123456789abcdef0", "size: 5GiB", "device_name: sdf"])
def test_leaving_the_node_by_itself_needs_to_detach(
    tmp_path: Path, api: AttachApi, action: str, match: str
) -> None:
    """What the policy has the agent do at an interruption is among its permissions, and only then.

    It does so to every volume, also to those that nothing but their entry's size tells.
    """
    path = tmp_path / "policy.yaml"
    entry = f"volumes: [{{name: db, match: {{{match}}}, block: {{}}}}]\n"
    for setting, is_needed in (("[spot-interruption]", True), ("[]", False)):
        path.write_text(f"version: 1\nagent: {{cloud: {{release_on: {setting}}}}}\n{entry}", "utf-8")
        document = make_iam_policy(load_policy(path, trust_owner=True), IDENTITY, api)
        assert (action in str(document)) is is_needed
        assert not is_needed or "ec2:DescribeVolumes" in str(document)
