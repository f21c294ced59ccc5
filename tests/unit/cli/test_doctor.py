from __future__ import annotations

import json
import os
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from agent.base.paths import Paths
from agent.cli.doctor import Finding, Grade, Host, installation, listening, machine, show_findings
from agent.cli.doctor.listening import examine_listener
from agent.core.errors import AgentError, ExitCode
from agent.core.model import FsType
from agent.core.replace import replace
from agent.node.kernel.tcp_listeners import Listener

XFS_POLICY = """
version: 1
volumes: [{name: a, match: {size: 1GiB}, filesystem: {type: xfs}, mount: {path: /mnt/a}}]
"""
NOTHING_NEEDED: frozenset[FsType] = frozenset()


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Return a node where all is well, which each test spoils in one place."""
    write(tmp_path, "proc/filesystems", "nodev\tsysfs\n\text4\n")
    write(tmp_path, "lib/modules/6.1.0-1/modules.dep", "kernel/fs/xfs/xfs.ko.xz: kernel/lib/crc.ko\n")
    write(tmp_path, "lib/modules/6.1.0-1/modules.builtin", "kernel/fs/btrfs/btrfs.ko\n")
    write(tmp_path, "run/udev/control", "")
    write(tmp_path, "sys/module/nvme_core/parameters/io_timeout", "4294967295\n")
    return Host(
        root=tmp_path,
        kernel="6.1.0-1",
        is_root=True,
        find_program=lambda name: f"/usr/sbin/{name}",
        ask_version=" ".join,
        load_library=lambda _: None,
    )


def examine(host: Host, needed: frozenset[FsType] = NOTHING_NEEDED) -> dict[str, Finding]:
    findings = [
        machine.examine_user(host),
        machine.examine_kernel(host),
        *machine.examine_filesystems(host, needed),
        *machine.examine_tools(host, needed),
        machine.examine_blkid(host),
        machine.examine_udev(host),
        machine.examine_io_timeout(host),
    ]
    return {finding.subject: finding for finding in findings}


def test_good_node_has_nothing_to_mend(host: Host) -> None:
    """Where all is well every finding says so, and none offers a remedy."""
    assert {(f.grade, f.mend) for f in examine(host).values()} == {(Grade.OK, None)}


@pytest.mark.parametrize(
    ("kernel", "grade"),
    [
        ("5.10.0-8-amd64", Grade.FAILURE),
        ("5.12.1", Grade.WARNING),
        ("5.15.0-1031-aws", Grade.OK),
        ("6.8.0", Grade.OK),
        ("7-rc1", Grade.OK),
        ("custom", Grade.FAILURE),
    ],
)
def test_kernel_is_judged_by_number(host: Host, kernel: str, grade: Grade) -> None:
    """Kernels without the mount API fail, without disk sequence numbers warn, and unknown ones fail."""
    assert machine.examine_kernel(replace(host, kernel=kernel)).grade is grade


@pytest.mark.parametrize(
    ("capabilities", "grade", "named"),
    [
        ("000001ffffffffff", Grade.OK, ""),
        ("000001fffeffffff", Grade.WARNING, "CAP_SYS_RESOURCE"),
        ("00000000a80425fb", Grade.FAILURE, "CAP_SYS_ADMIN"),
    ],
)
def test_root_of_a_container_is_told_from_root(
    host: Host, capabilities: str, grade: Grade, named: str
) -> None:
    """Root without the right to mount is a failure; without the right to grow ext4, a warning."""
    write(host.root, "proc/self/status", f"Name:\tx\nCapEff:\t{capabilities}\n")
    finding = machine.examine_user(host)
    assert finding.grade is grade
    assert named in finding.found


def test_missing_type_matters_if_the_policy_needs_it(host: Host) -> None:
    """A filesystem the kernel lacks is a failure for a policy that uses it, else a warning."""
    bare = replace(host, kernel="6.1.0-2")
    assert examine(bare)["xfs in the kernel"].grade is Grade.WARNING
    assert examine(bare, frozenset({FsType.XFS}))["xfs in the kernel"].grade is Grade.FAILURE
    assert examine(bare)["ext4 in the kernel"].grade is Grade.OK


def test_missing_program_is_named_with_its_package(host: Host) -> None:
    """A missing program is named, with how to install it."""
    bare = replace(host, find_program=lambda name: None if name == "xfs_growfs" else name)
    finding = examine(bare, frozenset({FsType.XFS}))["xfs tools"]
    assert finding.grade is Grade.FAILURE
    assert finding.found == "missing: xfs_growfs"
    assert "apt-get install xfsprogs" in str(finding.mend)


def test_program_that_does_not_run_fails(host: Host) -> None:
    """A program that is there and does not work is a failure with its own words."""

    def fail(argv: tuple[str, ...]) -> str:
        raise AgentError(f"{argv[0]} ended with 127: library missing.")

    assert examine(replace(host, ask_version=fail))["ext4 tools"].grade is Grade.FAILURE


def test_missing_blkid_fails(host: Host) -> None:
    """Without libblkid no blank volume can be proven blank, so the node is not ready."""

    def fail(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    assert examine(replace(host, load_library=fail))["libblkid"].grade is Grade.FAILURE


def test_short_timeout_warns_with_the_kernel_parameter(host: Host) -> None:
    """The kernel's default timeout is named, with the parameter that mends it."""
    write(host.root, "sys/module/nvme_core/parameters/io_timeout", "30\n")
    finding = machine.examine_io_timeout(host)
    assert finding.grade is Grade.WARNING
    assert "nvme_core.io_timeout=4294967295" in str(finding.mend)


def test_unit_that_takes_any_target_for_a_volume_fails(host: Host) -> None:
    """What tests set in its environment is no way to run a node, and is told from what is only like it."""
    write(host.root, machine.UNIT_PROCESSES, "7\n8\n9\n")
    write(host.root, "proc/8/environ", "HOME=/\0EBS_AGENT_TEST_FABRICS=10\0")
    assert not list(machine.examine_identity(host))
    write(host.root, "proc/9/environ", "HOME=/\0EBS_AGENT_TEST_FABRICS=1\0LANG=C\0")
    (finding,) = machine.examine_identity(host)
    assert finding.grade is Grade.FAILURE
    assert "EBS_AGENT_TEST_FABRICS" in str(finding.mend)


def test_absent_udev_and_driver_warn(host: Host) -> None:
    """The agent works by looking now and then, so late news are a warning."""
    bare = replace(host, root=host.root / "nowhere")
    assert machine.examine_udev(bare).grade is Grade.WARNING
    assert machine.examine_io_timeout(bare).grade is Grade.WARNING


@pytest.mark.parametrize(
    ("text", "grade", "needed"),
    [
        (None, Grade.WARNING, set()),
        ("version: 1\nvolumes: [{name: a, match: {size: 1GiB}}]\nnonsense: 1", Grade.FAILURE, set()),
        ("version: 1", Grade.OK, set()),
        (
            XFS_POLICY,
            Grade.OK,
            {FsType.XFS},
        ),
    ],
)
def test_policy_says_what_is_needed(
    tmp_path: Path, text: str | None, grade: Grade, needed: set[FsType]
) -> None:
    """No policy warns, a wrong one fails, and a good one tells which filesystems must be there."""
    if text is not None:
        write(tmp_path, "etc/ebs-agent/policy.yaml", text)
    finding, policy = installation.examine_policy(Paths(tmp_path))
    assert finding.grade is grade
    assert installation.list_types(policy) == needed


@pytest.mark.parametrize("grade", list(Grade))
def test_only_failures_fail(grade: Grade, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1 exactly when something is a failure; JSON says the same."""
    findings = [Finding("udev", grade, "found", "mend")]
    code = show_findings(findings, as_json=True)
    assert code is (ExitCode.FAILED if grade is Grade.FAILURE else ExitCode.DONE)
    answer = json.loads(capsys.readouterr().out)
    assert answer["ready"] is (code is ExitCode.DONE)
    assert (answer["findings"][0]["grade"], answer["findings"][0]["verdict"]) == (grade.value, grade.value)


def test_findings_are_read_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    """For people each finding is a line with its remedy beneath it, and a last line sums up."""
    long = "eks:DescribeCluster"
    findings = [
        Finding("udev", Grade.WARNING, "not running", "Start it."),
        Finding(long, Grade.OK, "allowed"),
        Finding("permissions", Grade.NOTE, "cannot be tried"),
    ]
    show_findings(findings, as_json=False)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].split() == ["!", "udev", "not", "running"]
    assert lines[1].strip() == "Start it."
    assert lines[2].split() == ["✓", long, "allowed"]
    texts = ("not", "Start", "allowed", "cannot")
    assert len({line.index(text) for line, text in zip(lines, texts, strict=False)}) == 1
    assert lines[-1] == "This node is ready; one thing above is to be mended."
    show_findings(findings[1:], as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == "This node is ready."


def test_what_cannot_be_tried_is_no_warning() -> None:
    """A healthy node has no marks: permissions without a dry run are named once, as a note."""
    tried = {"subject": "ec2:CreateTags", "is_ok": True, "found": "allowed", "mend": None}
    untried = {**tried, "is_ok": None, "is_tried": False}
    examined = [tried, {**untried, "subject": "eks:DescribeCluster"}, {**untried, "subject": "eks:ListX"}]
    allowed, note = installation._grade(examined)
    assert allowed.grade is Grade.OK
    assert note.grade is Grade.NOTE
    assert note.found.endswith("eks:DescribeCluster, eks:ListX")
    assert note.mend is None


@pytest.mark.parametrize(
    ("listener", "is_running", "grade", "named"),
    [
        (None, False, Grade.OK, "is free"),
        (None, True, Grade.WARNING, "though an agent runs"),
        (Listener(0, os.getpid(), "agent"), True, Grade.OK, "the agent listens"),
        (Listener(1001, 7, "python", frozenset({os.getpid()})), True, Grade.OK, "the agent listens"),
        (Listener(1001, 7, "nc"), True, Grade.FAILURE, "nc (process 7) of user 1001"),
        (Listener(1001, 7, "nc"), False, Grade.FAILURE, "nc (process 7) of user 1001"),
        (Listener(1001), True, Grade.FAILURE, "a process of user 1001"),
        (Listener(0), True, Grade.WARNING, "a process of user root"),
    ],
)
def test_who_answers_in_the_agent_s_place_is_named(
    tmp_path: Path, listener: Listener | None, grade: Grade, named: str, *, is_running: bool
) -> None:
    """Whoever listens at the agent's address is the agent, or somebody whom monitoring believes."""
    with closing(socket.socket(socket.AF_UNIX)) as control:
        path = Path(os.path.relpath(tmp_path / "s"))
        if is_running:
            control.bind(str(path))
            control.listen()
        found = examine_listener(None, path, lambda _host, _port: listener)
    assert (found.grade, named in found.found) == (grade, True), found
    assert "127.0.0.1:9842" in found.found


def test_who_may_not_see_whose_the_port_is_is_told_to_ask_as_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The socket may be the agent's, by the unit that opened it, where its process is out of sight."""
    monkeypatch.setattr(listening, "find_uid", lambda _: 1001)
    found = examine_listener(None, tmp_path / "s", lambda _host, _port: Listener(1001))
    assert found.grade is Grade.WARNING
    assert "sudo ebs-agent doctor" in str(found.mend)


def test_what_answers_in_the_agent_s_name_is_the_agent_s(tmp_path: Path) -> None:
    """The process that answers over HTTP has the agent's own socket, and is its child."""
    with closing(socket.socket(socket.AF_UNIX)) as control, subprocess.Popen(["sleep", "60"]) as child:
        path = Path(os.path.relpath(tmp_path / "s"))
        control.bind(str(path))
        control.listen()
        found = examine_listener(None, path, lambda _host, _port: Listener(0, child.pid, "python3"))
        child.kill()
    assert found.grade is Grade.OK, found
