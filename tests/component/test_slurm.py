"""The Slurm scripts with a scontrol and an ebs-agent of the test: what is drained, when, and why."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "monitoring/slurm"
NOT_READY = (
    "ebs-agent: Not ready after 0 s: ckpt is Failed (Stalled): ckpt does not answer.\n"
    "See why: ebs-agent status; ebs-agent explain VOLUME."
)
DRAINED = (
    "update NodeName=node-1 State=DRAIN Reason=ebs-agent: ckpt is Failed (Stalled): ckpt does not answer."
)


@dataclass
class Cluster:
    """A node of a cluster whose answers are in files."""

    directory: Path
    has_path: bool = True
    """Whether the script is given a search path, which slurmd does not."""
    complaints: str = ""
    """What the script wrote to stderr."""

    @property
    def slurm(self) -> Path:
        """Where Slurm is installed, which is in no search path."""
        return self.directory / "slurm"

    def run(self, script: str, *, status: int, says: str = "", reason: str = "") -> tuple[int, list[str]]:
        """Run a script; return its status and what it told scontrol to do."""
        told = self.directory / "told"
        told.write_text("")
        (self.directory / "says").write_text(says)
        self._write("ebs-agent", f'cat "{self.directory}/says" >&2; exit {status}')
        shown = f"   Reason={reason} [root@2026-01-02]" if reason else "   State=IDLE"
        self._write("scontrol", f'if [ "$1" = show ]; then echo "{shown}"; else echo "$@" >> "{told}"; fi')
        if self.has_path:
            env = {"PATH": f"{self.directory}:{os.environ['PATH']}"}
        else:
            env = {"EBS_AGENT": f"{self.directory}/ebs-agent", "EBS_AGENT_SLURM": str(self.slurm)}
        done = subprocess.run(
            [str(SCRIPTS / script)],
            env={**env, "SLURMD_NODENAME": "node-1"},
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        self.complaints = done.stderr
        return done.returncode, told.read_text().splitlines()

    def _write(self, name: str, text: str) -> None:
        program = self.directory / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def test_healthy_node_is_left_alone(cluster: Cluster) -> None:
    """A node whose volumes are ready, and that nobody drained, is told nothing."""
    assert cluster.run("health-check", status=0) == (0, [])


def test_failed_volume_drains_with_the_reason(cluster: Cluster) -> None:
    """A required volume that failed drains the node, and the drain message says which and why."""
    assert cluster.run("health-check", status=3, says=NOT_READY) == (0, [DRAINED])


def test_silent_agent_drains(cluster: Cluster) -> None:
    """An agent that does not answer is a reason to drain."""
    told = ["update NodeName=node-1 State=DRAIN Reason=ebs-agent: the agent does not answer"]
    assert cluster.run("health-check", status=4, says="ebs-agent: No answer.") == (0, told)


def test_own_drain_is_lifted(cluster: Cluster) -> None:
    """A node that this check drained is resumed once its volumes are ready."""
    reason = "ebs-agent: ckpt is Failed"
    assert cluster.run("health-check", status=0, reason=reason) == (
        0,
        ["update NodeName=node-1 State=RESUME"],
    )


@pytest.mark.parametrize("status", [0, 3])
def test_drain_of_others_is_theirs(cluster: Cluster, status: int) -> None:
    """A node that somebody else drained is neither resumed nor given another reason."""
    done = cluster.run("health-check", status=status, says=NOT_READY, reason="GPU 3 fell off the bus")
    assert done == (0, [])


def test_reason_is_one_plain_line(cluster: Cluster) -> None:
    """Whatever the agent says becomes one printable line of bounded length."""
    _, (told,) = cluster.run("health-check", status=3, says=f"a\x1b[31m{'x' * 500}")
    assert told.isprintable()
    assert len(told) < 300


def test_prolog(cluster: Cluster) -> None:
    """The prolog lets a job start where volumes are ready; otherwise it drains the node and fails."""
    assert cluster.run("prolog", status=0) == (0, [])
    assert cluster.run("prolog", status=3, says=NOT_READY) == (1, [DRAINED])


@pytest.mark.parametrize(("script", "status"), [("health-check", 0), ("prolog", 1)])
def test_slurmd_gives_no_search_path(cluster: Cluster, script: str, status: int) -> None:
    """Without a PATH, as slurmd runs them, scontrol is found where Slurm is installed."""
    cluster.has_path = False
    cluster.slurm.mkdir()
    (cluster.slurm / "bin").symlink_to(cluster.directory)
    assert cluster.run(script, status=3, says=NOT_READY) == (status, [DRAINED])
    assert "scontrol" not in cluster.complaints


@pytest.mark.skipif(shutil.which("scontrol") is not None, reason="this machine has Slurm")
@pytest.mark.parametrize("script", ["health-check", "prolog"])
def test_missing_scontrol_is_told(cluster: Cluster, script: str) -> None:
    """Where there is no scontrol the script fails, and says what is missing and where it looked."""
    cluster.has_path = False
    assert cluster.run(script, status=3, says=NOT_READY) == (1, [])
    looked = f"{cluster.slurm}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert f"ebs-agent: there is no scontrol in {looked}: " in cluster.complaints


def test_prolog_without_scontrol_lets_jobs_start(cluster: Cluster) -> None:
    """Where volumes are ready nothing is to be drained, and a job starts without scontrol."""
    cluster.has_path = False
    assert cluster.run("prolog", status=0) == (0, [])
