"""The Kubernetes project's whole suite for storage plugins: the agent on a node, and its controller."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.aws.cloud import REGION, ZONE, Cloud
from tests.aws.files import FileVolumes
from tests.aws.server import AwsServer
from tests.loop.cluster_node import ClusterNode
from tests.sanity.specs import read_report
from tests.sanity.test_sanity import DRIVER
from tests.sanity.toolchain import build_suite
from tests.waiting import wait_until

RUN_S = 1300


@pytest.fixture
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory whose path leaves room for sockets."""
    return tmp_path_factory.mktemp("s")


@pytest.fixture
def aws(base: Path) -> Iterator[AwsServer]:
    """Give an AWS whose volumes are files."""
    with AwsServer(Cloud(FileVolumes(base / "store"))) as server:
        yield server


@pytest.fixture
def node(base: Path, aws: AwsServer) -> Iterator[ClusterNode]:
    """Give a node of the cluster whose agent serves kubelet and has no policy's volumes."""
    files = aws.cloud.hooks
    assert isinstance(files, FileVolumes)
    node = ClusterNode(base / "node", aws, files, "i-00000000000000001", "compute-1")
    (node.scratch.kubelet / "plugins_registry").mkdir(parents=True)
    settings = {"enabled": True, "driver": DRIVER, "kubelet_root": str(node.scratch.kubelet), "zone": ZONE}
    node.scratch.write_policy(csi=settings, cloud={"enabled": True})
    yield node
    node.end()


@pytest.fixture
def controller(base: Path, aws: AwsServer) -> Iterator[Path]:
    """Run the controller; give the socket that it listens at."""
    path = base / "controller.sock"
    argv = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "agent", "csi-controller"]
    argv += ["--endpoint", f"unix://{path}", "--driver", DRIVER, "--region", REGION]
    environment = {
        **os.environ,
        "EBS_AGENT_CLOUD_ENDPOINT": aws.endpoint,
        "AWS_ACCESS_KEY_ID": "emulated",
        "AWS_SECRET_ACCESS_KEY": "emulated",
    }
    with (base / "controller.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment)
    try:
        wait_until(path.is_socket, "the controller listens")
        yield path
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.timeout(1500)
def test_agent_is_a_conforming_plugin(
    base: Path,
    node: ClusterNode,
    controller: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
    aws: AwsServer,
) -> None:
    """Each spec of csi-sanity passes or says what the plugin has not, mounted and raw; nothing is left."""
    program = build_suite(tmp_path)
    report = tmp_path / "report.json"
    node.start(monkeypatch)
    wait_until((node.scratch.kubelet / "plugins" / DRIVER / "csi.sock").is_socket, "the agent listens")
    arguments = {
        "kubelet-root": node.scratch.kubelet,
        "driver": DRIVER,
        "controller": controller,
        "zone": ZONE,
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
    log = (base / "controller.log").read_text()
    said = f"{run.stdout[-20000:]}\n{run.stderr[-4000:]}\n{log[-20000:]}"
    assert report.exists(), said
    specs = read_report(report)
    for spec in specs:
        with subtests.test(msg=spec.name):
            spec.judge()
    passed = {spec.name for spec in specs if spec.state == "passed"}
    for access_type in ("mount", "block"):
        assert f"{access_type} Node Service should work" in passed, said
    assert run.returncode == 0, said
    assert [one for one in aws.cloud.volumes.values() if one.state != "deleted"] == []
