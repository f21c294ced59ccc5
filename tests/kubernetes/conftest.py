"""A cluster of one node for each process of tests: a control plane here, a guest with kubelet and agent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubernetes.control_plane import read_logs, run_control_plane
from tests.kubernetes.kept_cluster import find_kept_cluster
from tests.kubernetes.node import KubernetesNode, boot_options
from tests.kubernetes.policy_volumes import PolicyVolumes
from tests.kubernetes.workloads import Workloads
from tests.vm.bundles import make_folder
from tests.vm.guest import Guest
from tests.vm.guest.agent_disk import GUEST_PYTHON

# The first test of a file may build the image, and start the cluster.
TIMEOUT_S = 900
START_TIMEOUT_S = 2400

_running: list[KubernetesNode] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    started: set[Path] = set()
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(TIMEOUT_S if item.path in started else START_TIMEOUT_S))
            started.add(item.path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Show what node and control plane logged when a test failed."""
    report: pytest.TestReport = yield  # type: ignore[assignment]
    if report.failed:
        for node in _running:
            report.sections.append(("the guest's console", node.guest.read_console()))
            if node.guest.is_alive():
                report.sections.append(("the guest's journal", node.guest.read_journal(lines=150)))
            report.sections.append(("the control plane", read_logs(node.plane.directory)))
    return report  # type: ignore[return-value]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesNode]:
    """Give the node as the lifecycle script leaves it, once kubelet is ready; or one that is kept running."""
    if (kept := find_kept_cluster()) is not None:
        _running.append(kept)
        yield kept
        kept.guest.detach()
        return
    with run_control_plane(tmp_path_factory.mktemp("control-plane")) as plane:
        guest = Guest.boot(boot_options())
        try:
            folder = make_folder(tmp_path_factory.mktemp("bundle"), pythons=[GUEST_PYTHON])
            node = KubernetesNode(guest, plane, folder)
            _running.append(node)
            node.prepare()
            node.install_agent()
            node.join()
            yield node
        finally:
            guest.close()


@pytest.fixture
def workloads(node: KubernetesNode) -> Iterator[Workloads]:
    """Lend the cluster, and take volumes and pods of the test away after it."""
    workloads = Workloads(node)
    workloads.declare_driver()
    node.ebs.start()
    yield workloads
    workloads.clear()


@pytest.fixture
def policy(workloads: Workloads) -> Iterator[PolicyVolumes]:
    """Lend the installed agent's policy, which names no volume after the test."""
    policy = PolicyVolumes(workloads)
    yield policy
    policy.clear()
