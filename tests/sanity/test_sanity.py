"""The Kubernetes project's own suite for storage plugins, against the agent on stand-in volumes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent_process import AgentProcess, Scratch
from tests.sanity.specs import read_report
from tests.sanity.toolchain import build_suite, check_sources
from tests.waiting import wait_until

DRIVER = "ebs.csi.hyperpod-agent"
RUN_S = 300


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scratch]:
    """Give directories for an agent, kubelet's among them; take down what was mounted and attached there."""
    scratch = Scratch(tmp_path_factory.mktemp("s")).prepare()
    (scratch.kubelet / "plugins_registry").mkdir(parents=True)
    yield scratch
    scratch.clean()


@pytest.fixture
def agent(scratch: Scratch) -> Iterator[AgentProcess]:
    """Give an agent that serves kubelet and has no policy's volumes."""
    scratch.write_policy(csi={"enabled": True, "driver": DRIVER, "kubelet_root": str(scratch.kubelet)})
    agent = AgentProcess(scratch)
    yield agent
    agent.end_anyhow()


@pytest.mark.timeout(900)
def test_agent_is_a_conforming_node(
    scratch: Scratch, agent: AgentProcess, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """Each spec of csi-sanity for identity and node passes, mounted and raw, and nothing is left behind."""
    program = build_suite(tmp_path)
    report = tmp_path / "report.json"
    store = scratch.base / "store"
    store.mkdir()
    agent.start()
    wait_until((scratch.kubelet / "plugins" / DRIVER / "csi.sock").is_socket, "the agent listens")
    arguments = {
        "kubelet-root": scratch.kubelet,
        "driver": DRIVER,
        "devices": scratch.devices,
        "store": store,
        "report": report,
    }
    run = subprocess.run(
        [program, *(f"-{name}={value}" for name, value in arguments.items())],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
    )
    said = f"{run.stdout[-20000:]}\n{run.stderr[-4000:]}\n{agent.read_log()[-20000:]}"
    assert report.exists(), said
    specs = read_report(report)
    for spec in specs:
        with subtests.test(msg=spec.name):
            spec.judge()
    passed = {spec.name for spec in specs if spec.state == "passed"}
    for access_type in ("mount", "block"):
        assert f"{access_type} Node Service should work" in passed, said
        assert f"{access_type} Node Service should be idempotent" in passed, said
    assert run.returncode == 0, said


@pytest.mark.timeout(900)
def test_suite_is_formatted_and_vetted() -> None:
    """What is written in Go is as clean as what is written in Python."""
    assert check_sources() == ""
