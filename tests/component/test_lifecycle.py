"""The lifecycle scripts as they are, on a directory that they take for a node."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.bundle import SCRIPTS, Node, make_folder

POLICY = "version: 1\nvolumes: []\n"
REQUIRED = "version: 1\nvolumes:\n  - {name: a, required: true}\n"
SPELLINGS = {
    REQUIRED: 1,
    "version: 1\nvolumes:\n  - name: a\n    required: true\n": 1,
    "version: 1\nvolumes:\n  - name: a\n    required: false\n": 0,
    "version: 1\nvolumes:\n  - name: a\n    # required: true\n": 0,
    "version: 1\nvolumes:\n  - {name: a, required: FALSE}\n": 0,
    "version: 1\nvolumes:\n  - {name: a, required: True}\n": 1,
    "version: 1\nvolumes:\n  - {name: a, required: TRUE}\n": 1,
    "version: 1\nvolumes:\n  - {name: a, 'required': true}\n": 1,
    'version: 1\nvolumes:\n  - {name: a, "required": true}\n': 1,
    'version: 1\nvolumes:\n  - {name: a, "required" : true}\n': 1,
    "version: 1\nvolumes:\n  - {name: a, required: &r true}\n": 1,
    "version: 1\nvolumes:\n  - {name: a, required: !!bool true}\n": 1,
    "version: 1\nvolumes:\n  - {name: a, ? required\n: true}\n": 1,
    "version: 1\nvolumes:\n  - name: a\n    required:\n      true\n": 1,
    "version: 1\nvolumes: [{name: a, required: false}, {name: b, required: true}]\n": 1,
}
"""Policies, and whether they fail a node that gets no agent."""
UNITS = ("ebs-agent.service", "ebs-volumes-ready.service", "ebs-volumes-late.service", "ebs-volumes.target")
READY = {"volume_id": "vol-1", "condition": "Ready", "path": "/data/a", "device": "/dev/nvme1n1"}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


def install(node: Node, on_create: Path) -> str:
    done = node.run(on_create)
    assert done.returncode == 0, done.stdout
    return done.stdout


def check_installed(node: Node, version: str) -> None:
    assert (node.release, node.running) == (version, version)
    assert not (node.home / ".unproven").exists()
    for unit in UNITS:
        installed = node.root / "etc/systemd/system" / unit
        assert installed.read_text() == (SCRIPTS.parent / "systemd" / unit).read_text()
    assert (node.root / "usr/local/bin/ebs-agent").readlink() == node.home / "current/bin/ebs-agent"
    assert not list(node.root.glob("ebs-agent.*")), "scratch directories are gone"


def test_installs_on_a_bare_node(node: Node, tmp_path: Path) -> None:
    """One run leaves the release in force, the units, the policy, and a log where HyperPod's scripts log."""
    output = install(node, make_folder(tmp_path / "s3", "1.0", policy=POLICY))
    check_installed(node, "1.0")
    assert node.policy.read_text() == POLICY
    assert "release 1.0 is in force" in output
    assert "release 1.0 is in force" in (node.root / "var/log/provision/ebs-agent.log").read_text()


def test_a_second_run_changes_nothing(node: Node, tmp_path: Path) -> None:
    """Run again, it restarts nothing; a changed policy is loaded without a restart."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    install(node, on_create)
    install(node, on_create)
    assert node.count_calls("systemctl restart ebs-agent.service") == 1
    assert node.count_calls("systemctl reload ebs-agent.service") == 0
    (on_create.parent / "policy.yaml").write_text(POLICY + "# changed\n")
    install(node, on_create)
    assert node.count_calls("systemctl restart ebs-agent.service") == 1
    assert node.count_calls("systemctl reload ebs-agent.service") == 1


def test_runs_at_the_same_time_wait_for_each_other(node: Node, tmp_path: Path) -> None:
    """Two runs at once both succeed, and install once."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    runs = [node.start(on_create) for _ in range(2)]
    outputs = [run.communicate()[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    check_installed(node, "1.0")
    assert node.count_calls("systemctl restart ebs-agent.service") == 1


def test_two_upgrades_keep_one_release_to_go_back_to(node: Node, tmp_path: Path) -> None:
    """An upgrade goes beside the release in force; the one before that is removed."""
    for version in ("1.0", "1.1", "1.2"):
        install(node, make_folder(tmp_path / version, version, policy=POLICY))
        check_installed(node, version)
    assert node.list_releases() == ["1.1", "1.2"]


def test_other_bytes_of_the_same_version_are_another_release(node: Node, tmp_path: Path) -> None:
    """A version that was built again is installed beside the one that runs, never over it."""
    install(node, make_folder(tmp_path / "first", "1.0", policy=POLICY))
    second = make_folder(tmp_path / "second", "1.0", policy=POLICY, is_broken=True)
    done = node.run(second)
    assert done.returncode == 0, done.stdout
    assert (node.release, node.running) == ("1.0", "1.0")
    assert [name[:4] for name in node.list_releases()] == ["1.0", "1.0-"]


def test_an_upgrade_that_does_not_start_is_rolled_back(node: Node, tmp_path: Path) -> None:
    """A new version that does not become ready is replaced by the one before, and the node does not fail."""
    install(node, make_folder(tmp_path / "old", "1.0", policy=POLICY))
    output = install(node, make_folder(tmp_path / "new", "1.1", policy=POLICY, is_broken=True))
    assert "going back to 1.0" in output
    check_installed(node, "1.0")


NEW_KEY = POLICY + "# for the fake: needs 1.1\n"


def test_an_upgrade_that_fails_goes_back_to_the_policy_too(node: Node, tmp_path: Path) -> None:
    """The release before may not read the new policy: both go back, and the node has an agent that runs."""
    install(node, make_folder(tmp_path / "old", "1.0", policy=POLICY))
    output = install(node, make_folder(tmp_path / "new", "1.1", policy=NEW_KEY, is_broken=True))
    assert "going back to 1.0" in output
    assert node.policy.read_text() == POLICY
    check_installed(node, "1.0")
    assert not list(node.home.glob(".policy-before*"))


def test_an_upgrade_with_a_new_key_in_the_policy_succeeds(node: Node, tmp_path: Path) -> None:
    """Nothing goes back where the new release takes the new policy; going back by hand gets the old one."""
    install(node, make_folder(tmp_path / "old", "1.0", policy=POLICY))
    install(node, make_folder(tmp_path / "new", "1.1", policy=NEW_KEY))
    assert node.policy.read_text() == NEW_KEY
    check_installed(node, "1.1")
    script = node.home / "current/share/ebs-agent/rollback.sh"
    for version, policy in (("1.0", POLICY), ("1.1", POLICY)):
        done = node.run(script)
        assert done.returncode == 0, done.stdout
        assert node.policy.read_text() == policy
        check_installed(node, version)


@pytest.mark.parametrize(
    "kill_at",
    [pytest.param(30, marks=pytest.mark.thorough), 34, pytest.param(38, marks=pytest.mark.thorough)],
)
def test_an_upgrade_cut_off_and_failing_then_goes_back_to_the_policy(
    node: Node, tmp_path: Path, kill_at: int
) -> None:
    """What was before the run that was killed counts, and not what that one left."""
    install(node, make_folder(tmp_path / "old", "1.0", policy=POLICY))
    new = make_folder(tmp_path / "new", "1.1", policy=NEW_KEY, is_broken=True)
    assert node.run(new, kill_at=kill_at).returncode != 0
    assert node.release == "1.1" or node.policy.read_text() == POLICY, (
        "a boot here has an agent that reads it"
    )
    for leftover in node.root.glob("ebs-agent.*"):
        shutil.rmtree(leftover)
    install(node, new)
    assert node.policy.read_text() == POLICY
    check_installed(node, "1.0")


def test_policy_that_alone_is_new_and_fails_goes_back(node: Node, tmp_path: Path) -> None:
    """A reload that the agent refuses leaves the policy before in force, and a later one may succeed."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    install(node, on_create)
    (on_create.parent / "policy.yaml").write_text(POLICY + "# changed\n")
    (node.root / "refuses").touch()
    assert "goes on with the one before" in install(node, on_create)
    assert node.policy.read_text() == POLICY
    (node.root / "refuses").unlink()
    install(node, on_create)
    assert node.policy.read_text() == POLICY + "# changed\n"
    assert not list(node.home.glob(".policy-before*"))


A, B = (f"  - {{name: {name}, match: {{volume_id: vol-{name}}}}}\n" for name in "ab")
BOTH, ONLY_A = (f"version: 1\nvolumes:\n{entries}" for entries in (A + B, A))
ANY_ELSE = f"version: 1\nvolumes:\n{B}  - {{name: a}}\n"
POD = {**READY, "volume_id": "vol-pod", "is_kubelets": True, "leaves_at_start": 2}
"""A pod's, which ends while the second agent takes the place of the first."""


def put_volumes(node: Node, *more: dict[str, Any], **a: object) -> None:
    """Have two volumes attached, of which ``a`` is said of the first, and more."""
    volumes = [{**READY, "volume_id": "vol-a", **a}, {**READY, "volume_id": "vol-b"}, *more]
    (node.root / "volumes.json").write_text(json.dumps(volumes))


@pytest.mark.parametrize(
    ("fault", "old", "new"),
    [
        ({"fails_with": ["1.1"]}, BOTH, BOTH),
        ({"fails_with": ["1.1"]}, BOTH, ONLY_A),
        ({"fails_with": ["1.1"]}, ONLY_A, "version: 1\nvolumes:\n" + A.replace("name: a", "name: z")),
        ({"unknown_to": ["1.1"]}, BOTH, BOTH),
        ({"unknown_to": ["1.1"]}, ANY_ELSE, ANY_ELSE),
        ({"leaves_at_start": 2}, BOTH, BOTH),
    ],
)
def test_an_upgrade_that_loses_a_volume_is_rolled_back(
    node: Node, tmp_path: Path, fault: dict[str, Any], old: str, new: str
) -> None:
    """A new version has to have ready what was ready before it and the policy names still.

    Also where the new policy lets go of another or has it under another name, or the new version does not
    give it to its entry.
    """
    put_volumes(node)
    install(node, make_folder(tmp_path / "old", "1.0", policy=old))
    put_volumes(node, POD, **fault)
    done = node.run(make_folder(tmp_path / "new", "1.1", policy=new))
    assert "going back to 1.0" in done.stdout
    assert (node.release, node.running, node.policy.read_text()) == ("1.0", "1.0", old)
    is_back = "leaves_at_start" not in fault
    assert ("release 1.0 is in force again" in done.stdout) is is_back, "what it was before it is again"


@pytest.mark.parametrize(
    "new",
    [
        ONLY_A,
        POLICY,
        BOTH.replace("name: b", "name: z"),
        BOTH.replace("vol-b", "vol-elsewhere"),
    ],
    ids=["one less", "none", "renamed", "for another volume"],
)
def test_what_the_new_policy_lets_go_breaks_no_upgrade(node: Node, tmp_path: Path, new: str) -> None:
    """It is Unmanaged by design, and stays as it is; the release before has it again, with its own policy."""
    put_volumes(node)
    install(node, make_folder(tmp_path / "old", "1.0", policy=BOTH))
    output = install(node, make_folder(tmp_path / "new", "1.1", policy=new + "# for the fake: needs 1.1\n"))
    assert "going back" not in output
    check_installed(node, "1.1")
    done = node.run(node.home / "current/share/ebs-agent/rollback.sh")
    assert (done.returncode, node.policy.read_text()) == (0, BOTH), done.stdout


@pytest.mark.parametrize("is_broken", [False, True])
def test_pod_that_ends_meanwhile_breaks_no_upgrade(
    node: Node,
    tmp_path: Path,
    is_broken: bool,  # noqa: FBT001
) -> None:
    """Its volume leaves the node whichever version runs: neither of the two is to blame."""
    put_volumes(node, POD)
    install(node, make_folder(tmp_path / "old", "1.0", policy=BOTH))
    done = node.run(make_folder(tmp_path / "new", "1.1", policy=BOTH, is_broken=is_broken))
    assert done.returncode == 0, done.stdout
    assert ("release 1.0 is in force again" in done.stdout) is is_broken
    assert "volumes that were usable before are not" not in done.stdout
    check_installed(node, "1.0" if is_broken else "1.1")


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_killed_at_many_steps_and_run_again_it_arrives(node: Node, tmp_path: Path) -> None:
    """Whichever call is the last one (every other is tried), the next run ends as an undisturbed one."""
    changed = POLICY + "# new\n"
    old = make_folder(tmp_path / "old", "1.0", policy=POLICY)
    new = make_folder(tmp_path / "new", "1.1", policy=changed)
    install(node, old)
    number = 1
    while node.run(new, kill_at=number).returncode != 0:
        # Between the runs the node may boot: what is in force is whole, the old one or the new one.
        assert node.release in node.list_releases()
        assert node.policy.read_text() in {POLICY, changed}
        for leftover in node.root.glob("ebs-agent.*"):
            shutil.rmtree(leftover)  # a killed script cannot; on a node it lies where the system cleans up
        install(node, new)
        check_installed(node, "1.1")
        assert node.policy.read_text() == changed
        node.go_back_to("1.0", POLICY)
        number += 2
    assert number > 20, "it was killed at many steps before a run came through"


@pytest.mark.parametrize(("policy", "status"), [(POLICY, 0), (REQUIRED, 1)])
def test_only_a_required_volume_fails_the_node(node: Node, tmp_path: Path, policy: str, status: int) -> None:
    """An agent that cannot be installed, or volumes that do not come, fail a node that requires one."""
    broken = make_folder(tmp_path / "broken", "1.0", policy=policy, is_broken=True)
    assert node.run(broken).returncode == status
    if status:
        policy += "# for the fake: required\n"
    (node.root / "volumes.json").write_text(json.dumps([{**READY, "condition": "Pending"}]))
    working = make_folder(tmp_path / "working", "1.1", policy=policy)
    assert node.run(working).returncode == status


def test_a_required_volume_is_found_without_an_agent_to_ask(node: Node, tmp_path: Path) -> None:
    """However it is written; what is said false, or in a comment, requires nothing."""
    on_create = make_folder(tmp_path / "s3", "1.0")
    [bundle] = on_create.parent.glob("*.tar.gz")
    bundle.write_bytes(bundle.read_bytes() + b"x")
    for policy, status in SPELLINGS.items():
        (on_create.parent / "policy.yaml").write_text(policy)
        assert node.run(on_create).returncode == status, policy
    assert not node.home.exists()


def test_a_damaged_bundle_is_refused(node: Node, tmp_path: Path) -> None:
    """A bundle with other bytes than its checksum says is not unpacked."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=REQUIRED)
    [bundle] = on_create.parent.glob("*.tar.gz")
    bundle.write_bytes(bundle.read_bytes() + b"x")
    done = node.run(on_create)
    assert done.returncode == 1
    assert "is damaged" in done.stdout
    assert not node.home.exists()


def test_what_a_policy_requires_is_asked_of_the_agent(node: Node, tmp_path: Path) -> None:
    """Where an agent is installed its word counts, whatever the policy's text looks like."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=f"{REQUIRED}# for the fake: required\n")
    assert node.run(on_create).returncode == 0
    (node.root / "volumes.json").write_text(json.dumps([{**READY, "condition": "Pending"}]))
    assert node.run(on_create).returncode == 1
    (on_create.parent / "policy.yaml").write_text(REQUIRED)
    assert node.run(on_create).returncode == 0


def test_creation_does_not_wait_for_itself(node: Node, tmp_path: Path) -> None:
    """A required volume that comes when the cluster is InService fails no node, unless told otherwise."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=f"{REQUIRED}# for the fake: required\n")
    waiting = {**READY, "condition": "Pending", "waits_for_cluster": True}
    (node.root / "volumes.json").write_text(json.dumps([waiting]))
    assert node.run(on_create).returncode == 0
    (node.root / "old").touch()
    assert node.run(on_create).returncode == 1, "an agent that does not know the option is asked without"
    (node.root / "old").unlink()
    (on_create.parent / "ebs-agent.conf").write_text("EBS_AGENT_WAIT_FOR_CLUSTER=yes\n")
    assert node.run(on_create).returncode == 1


def test_which_file_a_digest_is_of_the_digest_does_not_say(node: Node, tmp_path: Path) -> None:
    """A .sha256 that names another file, a sound one, does not make the bundle sound."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    [bundle] = on_create.parent.glob("*.tar.gz")
    digest = bundle.with_name(f"{bundle.name}.sha256")
    (on_create.parent / "other").write_text("x")
    sums = subprocess.run(["sha256sum", "other"], cwd=on_create.parent, capture_output=True, check=True)
    digest.write_bytes(sums.stdout)
    assert "is damaged, or is another" in node.run(on_create).stdout
    assert not node.home.exists()


@pytest.mark.parametrize("is_right", [True, False])
def test_the_settings_can_name_the_bundle(node: Node, tmp_path: Path, is_right: bool) -> None:  # noqa: FBT001
    """With a digest in ebs-agent.conf, who writes bundle and .sha256 does not choose what is installed."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    [bundle] = on_create.parent.glob("*.tar.gz")
    made = hashlib.sha256(bundle.read_bytes()).hexdigest()
    bundle.with_name(f"{bundle.name}.sha256").write_text("none\n" if is_right else f"{made}  x\n")
    wanted = f"{'0' * 64} {made.upper()}" if is_right else "0" * 64
    (on_create.parent / "ebs-agent.conf").write_text(f'EBS_AGENT_BUNDLE_SHA256="{wanted}"\n')
    output = node.run(on_create).stdout
    assert node.home.exists() is is_right
    assert is_right or "another than EBS_AGENT_BUNDLE_SHA256 says" in output


@pytest.mark.parametrize("name", ["wheels/more.py", ".hidden", "systemd/link"])
def test_a_bundle_with_more_than_is_listed_is_refused(node: Node, tmp_path: Path, name: str) -> None:
    """A file that SHA256SUMS does not list is nobody's, and is not installed."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    [bundle] = on_create.parent.glob("*.tar.gz")
    subprocess.run(["tar", "xzf", str(bundle), "-C", str(tmp_path)], check=True)
    place = tmp_path / bundle.name.removesuffix(".tar.gz")
    if name.endswith("link"):
        (place / name).symlink_to("/etc/passwd")
    else:
        (place / name).touch()
    done = node.run(place / "install.sh")
    assert done.returncode == 1
    assert f"SHA256SUMS does not list {name}" in done.stdout
    assert not node.home.exists()


def plant_old_lock(run: Path, victim: Path) -> None:
    (run / "lock").mkdir()
    (run / "lock/ebs-agent-install.lock").symlink_to(victim)


def plant_link(run: Path, victim: Path) -> None:
    (run / "ebs-agent-install").mkdir()
    (run / "ebs-agent-install/lock").symlink_to(victim)


def plant_linked_directory(run: Path, victim: Path) -> None:
    (run / "ebs-agent-install").symlink_to(victim.parent)


@pytest.mark.parametrize(
    ("plant", "status"), [(plant_old_lock, 0), (plant_link, 1), (plant_linked_directory, 1)]
)
def test_nobody_else_has_a_say_in_the_lock(
    node: Node, tmp_path: Path, plant: Callable[[Path, Path], None], status: int
) -> None:
    """The lock is where only root may write; no link is followed to it, and no file is truncated."""
    victim = node.root / "victims/lock"
    victim.parent.mkdir()
    victim.write_text("of root")
    (node.root / "run").mkdir()
    plant(node.root / "run", victim)
    done = node.run(make_folder(tmp_path / "s3", "1.0", policy=REQUIRED))
    assert done.returncode == status
    assert victim.read_text() == "of root"
    if not status:
        assert (node.root / "run/ebs-agent-install").stat().st_mode & 0o777 == 0o700


def test_a_policy_with_problems_does_not_replace_one_that_works(node: Node, tmp_path: Path) -> None:
    """The policy in force stays, and so does the agent."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    install(node, on_create)
    (on_create.parent / "policy.yaml").write_text("nonsense")
    assert "the one in force stays" in install(node, on_create)
    assert node.policy.read_text() == POLICY
    assert node.running == "1.0"


def test_rollback_by_hand(node: Node, tmp_path: Path) -> None:
    """rollback.sh puts the release before in force, and back again."""
    for version in ("1.0", "1.1"):
        install(node, make_folder(tmp_path / version, version, policy=POLICY))
    script = node.home / "current/share/ebs-agent/rollback.sh"
    for version in ("1.0", "1.1"):
        done = node.run(script)
        assert done.returncode == 0, done.stdout
        check_installed(node, version)
    assert node.run(script, "9.9").returncode == 1


def test_rollback_to_a_release_that_does_not_start(node: Node, tmp_path: Path) -> None:
    """What was in force before is in force again, and the exit status says so."""
    for version in ("1.0", "1.1"):
        install(node, make_folder(tmp_path / version, version, policy=POLICY))
    (node.home / "1.0/share/ebs-agent/VERSION").write_text("another")
    done = node.run(node.home / "current/share/ebs-agent/rollback.sh")
    assert done.returncode == 3, done.stdout
    assert "release 1.0 does not become ready: going back to 1.1" in done.stdout
    check_installed(node, "1.1")


def test_each_release_has_its_own_units_and_no_others(node: Node, tmp_path: Path) -> None:
    """A unit that a release does not have yet goes when that is put in force, and comes with the next."""
    late = "systemd/ebs-volumes-late.service"
    install(node, make_folder(tmp_path / "1.0", "1.0", policy=POLICY))
    (node.home / "1.0/share/ebs-agent" / late).unlink()
    install(node, make_folder(tmp_path / "1.1", "1.1", policy=POLICY))
    script = node.home / "current/share/ebs-agent/rollback.sh"
    done = node.run(script)
    assert (done.returncode, node.running) == (0, "1.0"), done.stdout
    assert not (node.root / "etc/systemd/system" / Path(late).name).exists()
    done = node.run(script)
    assert done.returncode == 0, done.stdout
    check_installed(node, "1.1")


def test_uninstall_leaves_policy_records_and_mounts(node: Node, tmp_path: Path) -> None:
    """The agent is removed; the script names mounts and files that stay, and --purge removes the files."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    install(node, on_create)
    (node.root / "volumes.json").write_text(json.dumps([READY]))
    (node.root / "var/lib/ebs-agent").mkdir(parents=True)
    done = node.run(node.home / "current/share/ebs-agent/uninstall.sh")
    assert done.returncode == 0, done.stdout
    assert "/data/a  (vol-1, /dev/nvme1n1)" in done.stdout
    assert not node.home.exists()
    assert not any((node.root / "etc/systemd/system").glob("*"))
    assert node.policy.exists()
    assert (node.root / "var/lib/ebs-agent").exists()
    install(node, on_create)
    done = node.run(node.home / "current/share/ebs-agent/uninstall.sh", "--purge")
    assert done.returncode == 0, done.stdout
    assert not node.policy.parent.exists()
    assert not (node.root / "var/lib/ebs-agent").exists()


def test_uninstall_withdraws_from_kubelet_once_no_pod_has_a_volume(node: Node, tmp_path: Path) -> None:
    """Refused before anything is done; --force does it, with the agent stopped before its sockets go."""
    install(node, make_folder(tmp_path / "s3", "1.0", policy=POLICY))
    script = node.home / "current/share/ebs-agent/uninstall.sh"
    for name in ("staged", "sockets"):
        (node.root / name).touch()
    done = node.run(script, "--purge")
    assert done.returncode == 1
    assert "drain the node first" in done.stdout
    check_installed(node, "1.0")
    assert (node.root / "sockets").exists()
    done = node.run(script, "--purge", "--force")
    assert done.returncode == 0, done.stdout
    assert not (node.root / "sockets").exists()
    assert not node.home.exists()


def test_services_named_in_the_settings_wait_for_volumes(node: Node, tmp_path: Path) -> None:
    """EBS_AGENT_HOLD gives each service a drop-in, which uninstalling takes away."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    (on_create.parent / "ebs-agent.conf").write_text('EBS_AGENT_HOLD="slurmd containerd.service"\n')
    install(node, on_create)
    for service in ("slurmd", "containerd"):
        drop_in = node.root / f"etc/systemd/system/{service}.service.d/50-ebs-volumes.conf"
        assert "After=ebs-volumes.target" in drop_in.read_text()
    node.run(node.home / "current/share/ebs-agent/uninstall.sh")
    assert not list((node.root / "etc/systemd/system").glob("*.d"))


def test_uninstall_leaves_what_others_have_for_services(node: Node, tmp_path: Path) -> None:
    """Drop-ins beside the agent's, and directories that it has put nothing into."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    (on_create.parent / "ebs-agent.conf").write_text('EBS_AGENT_HOLD="slurmd containerd"\n')
    install(node, on_create)
    units = node.root / "etc/systemd/system"
    (units / "slurmd.service.d/60-own.conf").write_text("[Unit]\n")
    (units / "sshd.service.d").mkdir()
    done = node.run(node.home / "current/share/ebs-agent/uninstall.sh")
    assert done.returncode == 0, done.stdout
    left = {str(path.relative_to(units)) for path in units.glob("**/*")}
    assert left == {"slurmd.service.d", "slurmd.service.d/60-own.conf", "sshd.service.d"}


@pytest.mark.parametrize("settings", ['EBS_AGENT_HOLD=""\n', '#EBS_AGENT_HOLD="slurmd"\n', None])
def test_services_wait_no_more_where_the_settings_name_none(
    node: Node, tmp_path: Path, settings: str | None
) -> None:
    """The settings beside the script are all there are: what they leave out is not held."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    conf = on_create.parent / "ebs-agent.conf"
    conf.write_text('EBS_AGENT_HOLD="slurmd"\n')
    install(node, on_create)
    conf.unlink()
    if settings is not None:
        conf.write_text(settings)
    install(node, on_create)
    assert not list((node.root / "etc/systemd/system").glob("*.d"))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_services_named_no_more_wait_no_more(node: Node, tmp_path: Path, version: str) -> None:
    """Their drop-ins go with the next installation, of whichever release, and nobody else's does."""
    units = node.root / "etc/systemd/system"
    for number, (release, hold) in enumerate((("1.0", "slurmd containerd kubelet"), (version, "slurmd"))):
        on_create = make_folder(tmp_path / str(number), release, policy=POLICY)
        (on_create.parent / "ebs-agent.conf").write_text(f'EBS_AGENT_HOLD="{hold}"\n')
        install(node, on_create)
        own = units / "containerd.service.d/60-own.conf"
        own.write_text("[Unit]\nAfter=ebs-volumes.target\n")
    assert {str(path.relative_to(units)) for path in (*units.glob("*.d"), *units.glob("*.d/*"))} == {
        "containerd.service.d",
        "containerd.service.d/60-own.conf",
        "slurmd.service.d",
        "slurmd.service.d/50-ebs-volumes.conf",
    }
    check_installed(node, version)


def test_hooks_beside_the_script_are_installed(node: Node, tmp_path: Path) -> None:
    """Programs in hooks.d are put where the agent looks for them, executable, for nobody else to change."""
    on_create = make_folder(tmp_path / "s3", "1.0", policy=POLICY)
    hook = on_create.parent / "hooks.d/10-tell"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\n")
    install(node, on_create)
    installed = node.root / "etc/ebs-agent/hooks.d/10-tell"
    assert installed.stat().st_mode & 0o777 == 0o755


def write_hooks(on_create: Path, **hooks: str) -> None:
    (on_create.parent / "hooks.d").mkdir()
    for name, content in hooks.items():
        (on_create.parent / "hooks.d" / name).write_text(content)


def read_hooks(node: Node) -> dict[str, str]:
    """Return what the agent may run: what a killed installation left half-written has no name of a hook's."""
    hooks = (node.root / "etc/ebs-agent/hooks.d").iterdir()
    return {hook.name: hook.read_text() for hook in hooks if "." not in hook.name}


@pytest.mark.parametrize("kill_at", [None, 34, 40])
def test_an_upgrade_that_fails_goes_back_to_the_hooks_too(
    node: Node, tmp_path: Path, kill_at: int | None
) -> None:
    """What was replaced is as it was, mode and all, what was new is gone, and an operator's own stays.

    Where the upgrade was cut off and run again, what was before the first run counts.
    """
    old = make_folder(tmp_path / "old", "1.0", policy=POLICY)
    write_hooks(old, tell="old", same="same")
    install(node, old)
    own = node.root / "etc/ebs-agent/hooks.d/own"
    own.write_text("own")
    (own.parent / "tell").chmod(0o700)
    before = read_hooks(node)
    new = make_folder(tmp_path / "new", "1.1", policy=POLICY, is_broken=True)
    write_hooks(new, tell="new", same="same", more="more")
    if kill_at is not None:
        assert node.run(new, kill_at=kill_at).returncode != 0
        for leftover in node.root.glob("ebs-agent.*"):
            shutil.rmtree(leftover)
    assert "the hooks before are in place again" in install(node, new)
    assert read_hooks(node) == before
    assert (own.parent / "tell").stat().st_mode & 0o777 == 0o700
    assert not list(node.home.glob(".hooks-before*"))
    check_installed(node, "1.0")


def test_an_upgrade_that_succeeds_keeps_its_hooks(node: Node, tmp_path: Path) -> None:
    """Of those before nothing is left, and new hooks alone are put in place by the release that runs."""
    old = make_folder(tmp_path / "old", "1.0", policy=POLICY)
    write_hooks(old, tell="old")
    install(node, old)
    new = make_folder(tmp_path / "new", "1.1", policy=POLICY)
    write_hooks(new, tell="new", more="more")
    install(node, new)
    assert read_hooks(node) == {"tell": "new", "more": "more"}
    (new.parent / "hooks.d/more").write_text("newer")
    install(node, new)
    assert read_hooks(node) == {"tell": "new", "more": "newer"}
    assert not list(node.home.glob(".hooks-before*"))
    check_installed(node, "1.1")


@pytest.mark.parametrize(
    ("manager", "others", "package"),
    [("apt-get", ("dnf*",), "python3"), ("dnf", ("apt*", "dpkg*"), "python3.11")],
)
def test_a_node_without_a_new_enough_python_gets_one(
    node: Node, tmp_path: Path, manager: str, others: tuple[str, ...], package: str
) -> None:
    """Python is installed by the distribution's package manager, which may fail a few times first."""
    node.hide_programs("python*", manager, *others)
    node.add_program("python3", "exit 1")  # one that is too old
    install_it = f"""
        case "$*" in *install*{package}) ;; *) exit 0 ;; esac
        echo try >>$dest/tries
        (($(wc -l <$dest/tries) >= 3)) || exit 1
        printf '#!/bin/bash\\nexec {sys.executable} "$@"\\n' >$dest/stubs/{package}.new
        chmod +x $dest/stubs/{package}.new
        mv $dest/stubs/{package}.new $dest/stubs/{package}"""
    node.add_program(manager, install_it)
    output = install(node, make_folder(tmp_path / "s3", "1.0", policy=POLICY))
    check_installed(node, "1.0")
    assert f"installing {package}" in output
    assert "attempt 2 of 5 failed" in output


PYTHON_SPEC = """
Name: python3.11
Version: 3.11.13
Release: 1
Summary: A stand-in
License: Apache-2.0
BuildArch: noarch
%description
A stand-in for the distribution's package.
%install
mkdir -p %{{buildroot}}/usr/bin
printf '#!/bin/bash\\nexec {python} "$@"\\n' >%{{buildroot}}/usr/bin/python3.11
%files
%attr(755, root, root) /usr/bin/python3.11
"""
DNF_CONF = """
[main]
gpgcheck=0
reposdir=/nonexistent
[local]
name=local
baseurl=file://{repository}
"""


@pytest.mark.needs("dnf", "rpmbuild", "createrepo_c")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can install packages")
def test_python_is_installed_by_the_real_dnf(node: Node, tmp_path: Path) -> None:
    """The real dnf understands what it is told on a node whose own Python is too old."""
    spec = tmp_path / "python.spec"
    spec.write_text(PYTHON_SPEC.format(python=sys.executable))
    subprocess.run(["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {tmp_path}/rpm", spec], check=True)
    subprocess.run(["createrepo_c", "--quiet", tmp_path / "rpm/RPMS"], check=True)
    settings = tmp_path / "dnf.conf"
    settings.write_text(DNF_CONF.format(repository=tmp_path / "rpm/RPMS"))
    node.hide_programs("python*", "dnf*", "apt*", "dpkg*")
    node.add_program("python3", "exit 1")
    system = tmp_path / "system"
    node.add_program(
        "dnf", f'exec {shutil.which("dnf")} --config={settings} --installroot={system} --releasever=2023 "$@"'
    )
    node.search_path += f":{system}/usr/bin"
    output = install(node, make_folder(tmp_path / "s3", "1.0", policy=POLICY))
    check_installed(node, "1.0")
    assert "installing python3.11" in output


def test_without_any_python_only_a_required_volume_fails_the_node(node: Node, tmp_path: Path) -> None:
    """A node on which nothing can be installed goes on without the agent, unless a volume is required."""
    node.hide_programs("python*", "apt*", "dnf*")
    (node.root / "etc/eks").mkdir(parents=True)
    done = node.run(make_folder(tmp_path / "optional", "1.0", policy=POLICY))
    assert (done.returncode, node.release) == (0, None), done.stdout
    done = node.run(make_folder(tmp_path / "required", "1.0", policy=REQUIRED))
    assert done.returncode == 1
    assert "none could be installed" in done.stdout
    assert "so that logs are uploaded" in done.stdout


def test_the_policy_comes_from_elsewhere_in_s3(node: Node, tmp_path: Path) -> None:
    """EBS_AGENT_POLICY_S3 is fetched, with several tries; where it cannot be had, the node keeps its own."""
    on_create = make_folder(tmp_path / "s3", "1.0")
    (on_create.parent / "ebs-agent.conf").write_text("EBS_AGENT_POLICY_S3=s3://bucket/policy.yaml\n")
    (node.root / "remote").write_text(REQUIRED)
    fetch = """
        echo try >>$dest/tries
        (($(wc -l <$dest/tries) >= 3)) && cp $dest/remote "${@: -1}" """
    node.add_program("aws", fetch)
    install(node, on_create)
    assert node.policy.read_text() == REQUIRED
    (node.root / "remote").unlink()
    install(node, on_create)
    assert node.policy.read_text() == REQUIRED
