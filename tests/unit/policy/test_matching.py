from __future__ import annotations

from functools import cache
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError
from agent.core.model import (
    Expected,
    FormatRule,
    FsType,
    NodeFacts,
    Origin,
    Reason,
    VolumeId,
    Wanted,
    WantedBlock,
    WantedFilesystem,
    WantedMount,
    WantedTuning,
)
from agent.policy import Candidate, Policy, assignment, describe_seen
from agent.policy.assignment import Assignment, assign
from agent.policy.entries import VolumeEntry
from agent.policy.matching import MatchContext
from tests.unit.policy.samples import (
    GIB,
    VOL_A,
    VOL_B,
    VOL_C,
    VOL_D,
    make_entry,
    make_policy,
    make_seen,
    make_volumes,
)

NODE = NodeFacts("compute-1", "compute", "i-0123456789abcdef0")


def _names(policy: Policy, *volumes: VolumeId, **more: object) -> dict[VolumeId, str | Reason | None]:
    """Return what became of each volume: its entry's name, the reason of its error, or None."""
    assigned = policy.assign({volume: make_seen(volume) for volume in volumes}, NODE, **more)  # type: ignore[arg-type]
    return {
        volume_id: want.name if isinstance(want, Wanted) else want.reason if want is not None else None
        for volume_id, want in assigned.items()
    }


@pytest.mark.parametrize(
    ("match", "is_match"),
    [
        (f"{{volume_id: {VOL_A}}}", True),
        (f"{{volume_id: {VOL_B}}}", False),
        ("{device_name: /dev/sdf}", True),
        ("{device_name: sdf}", True),
        ("{device_name: sdg}", False),
        ("{size: 100GiB}", True),
        ("{size: 102400MiB}", True),
        ("{size: 101GiB}", False),
        ("{size: '>=100GiB'}", True),
        ("{size: '>=101GiB'}", False),
        ("{size: '<=100GiB'}", True),
        ("{size: 50GiB..200GiB}", True),
        ("{size: 200GiB..300GiB}", False),
        ("{size: 100GiB, instance_group: compute}", True),
        ("{size: 100GiB, instance_group: other}", False),
        ("{tags: {role: db}}", True),
        ("{tags: {role: db, env: prod}}", False),
        ("{tags: {role: web}}", False),
        ("{type: gp3}", True),
        ("{type: io2}", False),
        ("{device_name: sdf, size: 100GiB, tags: {role: db}, type: gp3}", True),
        ("{device_name: sdf, size: 100GiB, tags: {role: db}, type: io2}", False),
    ],
)
def test_an_entry_matches_when_all_it_asks_is_so(match: str, is_match: bool) -> None:  # noqa: FBT001
    """Each criterion is compared with the fact it is about, and all must hold."""
    policy = make_volumes(make_entry("a", match))
    seen, origin = make_seen(VOL_A, attach_name="/dev/sdf"), Origin(tags=(("role", "db"),), type="gp3")
    want = policy.assign({VOL_A: seen}, NODE, origins={VOL_A: origin})[VOL_A]
    assert isinstance(want, Wanted) == is_match


@pytest.mark.parametrize(
    ("match", "node"),
    [
        ("{tags: {role: db}}", NODE),
        ("{type: gp3}", NODE),
        ("{device_name: sdf}", NODE),
        ("{size: 100GiB, instance_group: compute}", NodeFacts()),
    ],
)
def test_what_is_not_known_matches_nothing(match: str, node: NodeFacts) -> None:
    """A fact nobody could tell makes no entry match, and the explanation says that it is missing."""
    policy = make_volumes(make_entry("a", match))
    assert policy.assign({VOL_A: make_seen(VOL_A)}, node) == {VOL_A: None}
    (explained,) = policy.explain(Candidate(VOL_A, size_bytes=100 * GIB), node)
    assert not explained.is_match
    assert "known" in explained.sentence


def test_two_entries_for_one_volume_are_an_error_that_names_both() -> None:
    """The agent does not choose between two entries."""
    policy = make_volumes(make_entry("one", "{size: 100GiB}"), make_entry("two", "{size: '>=1GiB'}"))
    want = policy.assign({VOL_A: make_seen(VOL_A)}, NODE)[VOL_A]
    assert isinstance(want, AgentError)
    assert want.reason is Reason.SEVERAL_ENTRIES
    assert "'one' and 'two'" in want.message


def test_an_entry_that_names_the_volume_wins() -> None:
    """A volume ID is meant; a size may be chance."""
    policy = make_volumes(
        make_entry("fuzzy", "{size: 100GiB}"), make_entry("exact", f"{{volume_id: {VOL_B}}}")
    )
    assert _names(policy, VOL_A, VOL_B) == {VOL_A: "fuzzy", VOL_B: "exact"}


def test_an_entry_is_for_one_volume() -> None:
    """Of several volumes the first by ID has the entry; the others are told who has it."""
    policy = make_volumes(make_entry("a", "{size: 100GiB}"))
    assert _names(policy, VOL_C, VOL_B) == {VOL_B: "a", VOL_C: Reason.SEVERAL_VOLUMES}


def test_who_holds_an_entry_keeps_it() -> None:
    """A volume that comes later takes nothing from one that is in use, whatever its ID."""
    policy = make_volumes(make_entry("a", "{size: 100GiB}"))
    assert _names(policy, VOL_A, VOL_B, held={"a": VOL_B}) == {VOL_A: Reason.SEVERAL_VOLUMES, VOL_B: "a"}


def test_a_volume_that_grew_keeps_its_entry() -> None:
    """Expanding a volume that was matched by its size does not lose it."""
    policy = make_volumes(make_entry("a", "{size: 50GiB}"))
    assert _names(policy, VOL_A) == {VOL_A: None}
    assert _names(policy, VOL_A, held={"a": VOL_A}) == {VOL_A: "a"}


def test_a_volume_whose_tags_are_not_known_now_keeps_its_entry() -> None:
    """The cloud's silence takes nothing away; its answer may."""
    policy = make_volumes(make_entry("a", "{tags: {role: db}}"))
    assert _names(policy, VOL_A, held={"a": VOL_A}) == {VOL_A: "a"}
    assert _names(policy, VOL_A, held={"a": VOL_A}, origins={VOL_A: Origin()}) == {VOL_A: None}


def test_a_holder_gives_way_to_the_volume_that_is_named() -> None:
    """An entry changed to name another volume leaves the one it had."""
    policy = make_volumes(make_entry("a", f"{{volume_id: {VOL_B}}}"))
    assert _names(policy, VOL_A, VOL_B, held={"a": VOL_A}) == {VOL_A: None, VOL_B: "a"}


def test_a_claim_matches_the_volume_made_for_it() -> None:
    """A claim's volume is known by who made it, and by nothing else."""
    policy = make_policy(
        "classes: {c: {}}\nvolumes:\n- name: a\n  claim: {class: c, size: 100GiB}\n  block: {}\n"
    )
    assert _names(policy, VOL_A) == {VOL_A: None}
    assert _names(policy, VOL_A, VOL_B, claimed={"a": VOL_B}) == {VOL_A: None, VOL_B: "a"}
    assert _names(policy, VOL_A, claimed={"a": VOL_B}) == {VOL_A: None, VOL_B: "a"}


def test_absent_volumes_that_are_named_are_wanted_too() -> None:
    """What the policy names is followed before it is attached, and so is what a record names."""
    policy = make_volumes(
        make_entry("here", f"{{volume_id: {VOL_A}, size: 5GiB}}"),
        make_entry("elsewhere", f"{{volume_id: {VOL_B}, instance_group: other}}"),
        make_entry("fuzzy", "{size: 100GiB}"),
    )
    assert _names(policy) == {VOL_A: "here"}
    assert _names(policy, also=[VOL_B, VOL_C]) == {VOL_A: "here", VOL_B: None, VOL_C: None}
    assert _names(policy, also=[VOL_C], held={"fuzzy": VOL_C}) == {VOL_A: "here", VOL_C: "fuzzy"}


def test_templates_that_collide_are_a_conflict_of_the_later_volume() -> None:
    """Two paths that become one, or one inside the other, are seen before anything is mounted."""
    policy = make_volumes(
        make_entry("a", f"{{volume_id: {VOL_A}}}", path="/data/{tag:dir}"),
        make_entry("b", f"{{volume_id: {VOL_B}}}", path="/data/{instance_group}"),
        make_entry("c", f"{{volume_id: {VOL_C}}}", path="/data/compute/{name}"),
    )
    origins = {VOL_A: Origin(tags=(("dir", "compute"),))}
    assert _names(policy, VOL_A, VOL_B, VOL_C, origins=origins) == {
        VOL_A: "a",
        VOL_B: Reason.PATH_IN_USE,
        VOL_C: Reason.PATH_IN_USE,
    }
    assert _names(policy, VOL_A, VOL_B, VOL_C, origins=origins, held={"c": VOL_C}) == {
        VOL_A: Reason.PATH_IN_USE,
        VOL_B: Reason.PATH_IN_USE,
        VOL_C: "c",
    }


def test_volume_that_an_entry_names_is_told_from_one_it_only_describes() -> None:
    """By its ID, or by the claim it was made for; size, device name and tags describe many."""
    policy = make_policy(f"""\
classes: {{fast: {{type: gp3}}}}
volumes:
- {{name: named, match: {{volume_id: {VOL_A}}}, block: {{}}}}
- {{name: claimed, claim: {{class: fast, size: 1GiB}}, block: {{}}}}
- {{name: broad, match: {{size: 3GiB}}, block: {{}}}}
- {{name: tagged, match: {{tags: {{role: db}}}}, block: {{}}}}
""")
    present = {
        VOL_A: make_seen(VOL_A, 1),
        VOL_B: make_seen(VOL_B, 1),
        VOL_C: make_seen(VOL_C, 3),
        VOL_D: make_seen(VOL_D, 4),
    }
    origins = {VOL_D: Origin(tags=(("role", "db"),))}
    wants = policy.assign(present, NODE, claimed={"claimed": VOL_B}, origins=origins)
    broad = {want.name: want.is_broad for want in wants.values() if isinstance(want, Wanted)}
    assert broad == {"named": False, "claimed": False, "broad": True, "tagged": True}


def test_everything_an_entry_says_is_wanted() -> None:
    """The wanted state carries each key of the entry, with paths and options made ready."""
    policy = make_policy(f"""\
volumes:
- name: ckpt
  match: {{volume_id: {VOL_A}}}
  filesystem: {{type: xfs, format: if-blank, label: ck, mkfs_options: [-m, reflink=0]}}
  mount:
    path: "/data/{{instance_name}}/{{name}}"
    options: [ro, dev]
    owner: ubuntu
    group: 1000
    mode: "0770"
  grow: true
  required: true
  tune: {{read_ahead: 4MiB, scheduler: none}}
- name: raw
  match: {{volume_id: {VOL_B}}}
  block: {{owner: db, group: disk, mode: "0660"}}
""")
    present = {VOL_A: make_seen(VOL_A), VOL_B: make_seen(VOL_B)}
    assert policy.assign(present, NODE) == {
        VOL_A: Wanted(
            VOL_A,
            "ckpt",
            WantedFilesystem(FsType.XFS, FormatRule.IF_BLANK, "ck", ("-m", "reflink=0")),
            WantedMount("/data/compute-1/ckpt", ("nosuid", "ro"), "ubuntu", "1000", 0o770),
            grow=True,
            required=True,
            tune=WantedTuning(4 << 20, "none"),
        ),
        VOL_B: Wanted(VOL_B, "raw", block=WantedBlock("db", "disk", 0o660)),
    }


def test_expected_volumes_are_those_of_this_nodes_group() -> None:
    """Entries for other instance groups are not waited for here."""
    policy = make_volumes(
        make_entry("a", f"{{volume_id: {VOL_A}}}", more="    required: true\n"),
        make_entry("b", "{size: 1GiB, instance_group: other}"),
    )
    a, b = Expected("a", VOL_A, is_required=True), Expected("b", None, is_required=False)
    assert policy.expected() == (a, b)
    assert policy.expected(NODE) == (a,)


@pytest.mark.parametrize(
    ("entry", "node", "is_lacking"),
    [
        (make_entry("a", "{size: 1GiB}"), NodeFacts(), False),
        (make_entry("a", "{size: 1GiB, instance_group: compute}"), NodeFacts(instance_id="i-1"), True),
        (make_entry("a", "{size: 1GiB, instance_group: other}"), NODE, False),
        (make_entry("a", "{size: 1GiB}", path="/data/{instance_id}"), NodeFacts(), True),
        (make_entry("a", "{size: 1GiB}", path="/data/{instance_id}"), NodeFacts(instance_id="i-1"), False),
        (make_entry("a", "{size: 1GiB}", path="/data/{instance_name}"), NodeFacts(instance_id="i-1"), True),
        (make_entry("a", "{size: 1GiB}", path="/data/{tag:role}-{name}"), NodeFacts(), False),
        (
            make_entry("a", "{size: 1GiB, instance_group: other}", path="/data/{instance_id}"),
            NodeFacts(instance_group="compute"),
            False,
        ),
    ],
)
def test_what_entries_need_of_this_node_is_known_or_lacking(
    entry: str, node: NodeFacts, *, is_lacking: bool
) -> None:
    """A group to match by, and what paths ask for, of the entries that may be this node's."""
    assert make_volumes(entry).lacks(node) is is_lacking


@pytest.mark.parametrize(
    ("match", "use", "node", "may"),
    [
        ("{size: 100GiB, instance_group: compute}", "block: {}", NodeFacts(), True),
        ("{size: 5GiB, instance_group: compute}", "block: {}", NodeFacts(), True),
        (f"{{volume_id: {VOL_A}, instance_group: compute}}", "block: {}", NodeFacts(), True),
        (f"{{volume_id: {VOL_B}, instance_group: compute}}", "block: {}", NodeFacts(), False),
        ("{size: 100GiB, instance_group: other}", "block: {}", NODE, False),
        ("{size: 100GiB}", "block: {}", NodeFacts(), False),
        (
            "{instance_group: compute, size: 100GiB}",
            "filesystem: {type: ext4}\n    mount: {path: /data/a}",
            NodeFacts(),
            False,
        ),
    ],
    ids=["its group", "it has grown", "named", "another", "another group", "no group", "not raw"],
)
def test_volume_may_yet_be_wanted_raw(match: str, use: str, node: NodeFacts, *, may: bool) -> None:
    """By an entry that says nothing else against it, as long as this node's group is not known."""
    policy = make_volumes(f"  - name: a\n    match: {match}\n    {use}\n")
    volume = describe_seen(VOL_A, make_seen(VOL_A), {})
    assert policy.may_want_raw(volume, node) is may


_MATCHES = st.sampled_from(
    [f"{{volume_id: {v}}}" for v in (VOL_A, VOL_B, VOL_C)]
    + ["{size: 100GiB}", "{size: '>=1GiB'}", "{size: 7GiB}", "{tags: {role: db}}"]
)


@given(
    st.lists(_MATCHES, max_size=4),
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([VOL_A, VOL_B, VOL_C])),
)
def test_assignment_is_one_to_one_stable_and_blind_to_order(
    matches: list[str], held: dict[str, VolumeId]
) -> None:
    """No entry has two volumes; what was assigned stays when asked again; order makes no difference."""
    if len(set(matches)) < len(matches):
        return
    entries = [make_entry(name, match) for name, match in zip("abcd", matches, strict=False)]
    policy = make_volumes(*entries) if entries else make_policy("volumes: []")
    first = _names(policy, VOL_A, VOL_B, VOL_C, held=held)
    taken = [name for name in first.values() if isinstance(name, str) and not isinstance(name, Reason)]
    assert len(taken) == len(set(taken))
    for order in permutations((VOL_A, VOL_B, VOL_C)):
        assert _names(policy, *order, held=held) == first
    holding = {n: v for v, n in first.items() if isinstance(n, str) and not isinstance(n, Reason)}
    again = _names(policy, VOL_A, VOL_B, VOL_C, held=holding)
    assert {v: n for v, n in again.items() if n in holding} == {v: n for n, v in holding.items()}


@given(
    st.lists(st.one_of(_MATCHES, st.just(f"{{volume_id: {VOL_A}, size: 7GiB}}")), max_size=6),
    st.dictionaries(st.sampled_from("abcdef"), st.sampled_from([VOL_A, VOL_B, VOL_C])),
    st.dictionaries(st.sampled_from("pq"), st.sampled_from([VOL_A, VOL_B, VOL_C])),
    st.sets(st.sampled_from([VOL_A, VOL_B, VOL_C])),
)
def test_entries_left_out_could_not_have_been_chosen(
    matches: list[str], held: dict[str, VolumeId], claimed: dict[str, VolumeId], present: set[VolumeId]
) -> None:
    """A volume compared with the entries that could mean it gets what it gets when compared with all."""
    entries = [parse_entry(make_entry(name, match)) for name, match in zip("abcdef", matches, strict=False)]
    entries += [
        parse_entry(f"  - {{name: {name}, claim: {{class: c, size: 1GiB}}, block: {{}}}}\n") for name in "pq"
    ]
    around = MatchContext(NODE, held, claimed, ("/data",))
    volumes = [
        Candidate(volume, "/dev/sdf", 100 * GIB, is_present=volume in present)
        for volume in (VOL_A, VOL_B, VOL_C)
    ]
    quick = assign(entries, volumes, around)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "_index_entries", lambda all_of_them, _: ({}, range(len(all_of_them))))
        slow = assign(entries, volumes, around)
    assert {volume: describe_assignment(want) for volume, want in quick.items()} == {
        volume: describe_assignment(want) for volume, want in slow.items()
    }


@cache
def parse_entry(text: str) -> VolumeEntry:
    """Return one entry of a policy that it is alone in: two for one volume would be refused in one."""
    (entry,) = make_policy(f"classes: {{c: {{}}}}\nvolumes:\n{text}").volumes
    return entry


def describe_assignment(want: Assignment) -> object:
    """Return what two equal assignments have in common: errors are made anew each time."""
    return (want.message, want.hint, want.reason) if isinstance(want, AgentError) else want
