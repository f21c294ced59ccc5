"""A unit is killed by the kernel, or else by systemd, and only one of the agent's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.base.unit_kill import find_cgroup, kill_at_once, kill_by_systemd

WEB = "/system.slice/ebs-agent-web@3-77-0.service"


@pytest.fixture
def systemctl(tmp_path: Path) -> Path:
    """Give a program in systemctl's place, which notes what it was asked."""
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("cgroup", "found"),
    [
        (f"0::{WEB}\n", WEB),
        (f"12:devices:{WEB}\n1:name=systemd:{WEB}\n", WEB),
        (f"2:cpu:/\n1:name=systemd:{WEB}\n0::{WEB}\n", WEB),
        ("0::/system.slice/ebs-agent.service\n", None),
        ("0::/system.slice/sshd@3-77-0.service\n", None),
        (f"0::/user.slice{WEB}\n", None),
        (f"0::{WEB}/below\n", None),
        ("", None),
    ],
)
def test_a_unit_of_the_agent_s_is_found(tmp_path: Path, cgroup: str, found: str | None) -> None:
    """In either hierarchy, and nothing but one of those that the agent has started."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(cgroup)
    assert find_cgroup(7, tmp_path) == found
    assert find_cgroup(8, tmp_path) is None


def test_the_kernel_kills_it(tmp_path: Path) -> None:
    file = Path(f"{tmp_path}{WEB}") / "cgroup.kill"
    file.parent.mkdir(parents=True)
    file.touch()
    assert kill_at_once(WEB, tmp_path)
    assert file.read_text() == "1"


def test_nothing_is_made_where_the_kernel_has_no_such_file(tmp_path: Path) -> None:
    assert not kill_at_once(WEB, tmp_path)
    assert not any(tmp_path.iterdir())


def test_systemd_kills_it(tmp_path: Path, systemctl: Path) -> None:
    kill_by_systemd(WEB, str(systemctl))
    assert (tmp_path / "asked").read_text() == "kill --signal=SIGKILL ebs-agent-web@3-77-0.service\n"


def test_no_other_unit_is_killed(tmp_path: Path, systemctl: Path) -> None:
    for other in ("/", "/system.slice/ebs-agent.service", "/system.slice/kubelet.service", f"{WEB}/../x"):
        assert not kill_at_once(other, tmp_path)
        with pytest.raises(OSError, match="is no unit of the agent's"):
            kill_by_systemd(other, str(systemctl))
    assert not (tmp_path / "asked").exists()


def test_one_that_nothing_kills_is_told() -> None:
    with pytest.raises(OSError, match="could not be killed"):
        kill_by_systemd(WEB, "false")
