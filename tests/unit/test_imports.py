"""What the daemon imports is what it needs at once, since its start is waited for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.floors import find_modules

LATER = {
    "rich": "agent.base.log keeps structlog from it; only agent.cli.show.render and the demo draw with it",
    "pygments": "it comes with rich",
    "pydantic": "agent.policy.reading has it, in a process that reads the policy and ends",
    "pydantic_core": "it comes with pydantic",
    "yaml": "likewise: agent.policy.yaml",
    "typer": "the command line is not the daemon's",
    "h11": "agent.report.control.serve takes it when somebody first asks",
    "grpclib": "agent.csi.service takes it when the policy has the agent serve kubelet",
    "h2": "it comes with grpclib",
    "google.protobuf": "likewise",
    "agent.csi": "only where the policy has the agent serve kubelet",
    "agent.controller": "a program of its own, for a cluster and no node",
    "lightkube": "the controller's",
    "httpx2": "it comes with lightkube",
    "boto3": "it lives in the cloud worker",
    "botocore": "it lives in the cloud worker",
    "aiomqtt": "it lives in the process that publishes",
    "paho": "it comes with aiomqtt",
}


UNHEARD = {
    "_hashlib": "digests are computed by Python's own code, where this Python has it",
    "ssl": "TLS is spoken by other processes; where there are certificates the daemon loads it",
    "http.client": "another process asks the metadata service",
    "http.server": "prometheus_client would bring it",
    "email": "it comes with either",
}


@pytest.mark.parametrize("module", ["agent.daemon", "agent.report.logs", "agent.node.isolate.zygote"])
def test_the_start_takes_nothing_for_later(module: str) -> None:
    """None of the libraries that are for some nodes, or for some moments, is imported with the daemon."""
    code = f"import sys, {module}; print(*(name for name in {list(LATER)!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name: LATER[name] for name in done.stdout.split()} == {}


def test_the_daemon_speaks_with_no_network() -> None:
    """Nor has it the standard library's means to."""
    code = f"""
import sys, agent.daemon, anyio, agent.report.control.serve, agent.report.http.serve
anyio.wait_readable, anyio.connect_unix  # each of which has anyio import more
print(*(name for name in {list(UNHEARD)!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name: UNHEARD[name] for name in done.stdout.split()} == {}


@pytest.mark.parametrize(
    "more",
    [
        "agent.report.control.serve",
        "agent.csi.face, agent.csi.service.plugin",
        "agent.cloud.cloud_loop, agent.cloud.aws_worker.client, agent.cloud.permissions.doctor_in_agent",
        "agent.cloud.orders.routes, agent.cloud.orders.runner",
        "agent.report.broker.process, agent.report.broker.teller, agent.report.web.process",
    ],
)
def test_the_daemon_has_no_openssl_in_its_memory(more: str) -> None:
    """Whether it answers at its control socket, serves kubelet, has AWS asked, or a broker told."""
    code = f"""
import agent.daemon, {more}
from pathlib import Path
maps = Path("/proc/self/maps").read_text()
print(*(library for library in ("libssl", "libcrypto") if library in maps))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_who_tells_the_publisher_knows_no_broker() -> None:
    """Where the policy has one, too, the daemon has no library that speaks with brokers."""
    code = """
import sys, agent.daemon, agent.report.broker.teller
print(*({'aiomqtt', 'paho', 'agent.report.mqtt.client', 'agent.report.mqtt.publisher'} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("module", "without"),
    [
        (
            "agent.report.broker.main, agent.report.mqtt.client",
            (
                "urllib.request",
                "http.client",
                "email",
                "agent.policy.policy",
                "agent.node.device",
                "agent.core.steps",
            ),
        ),
        ("agent.report.web.main", ("agent.policy.policy", "agent.node.device", "aiomqtt", "pydantic")),
    ],
)
def test_a_face_takes_nothing_it_has_no_use_for(module: str, without: tuple[str, ...]) -> None:
    """It shows what it is told: what looks at devices, and what assigns volumes, is the daemon's."""
    code = f"import sys, {module}; print(*(name for name in {without!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "module",
    [
        *("agent.node.isolate.zygote", "agent.node.filesystem.thaw_guardian"),
        *("agent.report.web.listen_main", "agent.cloud.identity.metadata_main"),
    ],
)
def test_small_processes_stay_small(module: str) -> None:
    """What workers are forked from, holds a filesystem frozen, or asks one thing, has no event loop."""
    code = f"import sys, {module}; print(*({{'asyncio', 'anyio', 'structlog'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


WAYS_TO_WORKERS = {"call", "aside", "_aside", "read", "save"}
"""What is given a function that a worker is to call, for which the worker imports its module."""

CARRIERS = {"Shelf"}
"""What is sent to workers with functions and classes in it."""


def find_sent(sources: dict[str, str]) -> Iterator[str]:
    """Yield the modules of what is sent to workers by name, as far as it is imported or defined by name."""
    for module, source in sources.items():
        tree = ast.parse(source)
        homes = {node.name: module for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    member = f"{node.module}.{alias.name}"
                    homes[alias.name] = member if member in sources else node.module
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            way = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            sent = node.args if way in CARRIERS else node.args[:1] if way in WAYS_TO_WORKERS else []
            for value in sent:
                name = value.value if isinstance(value, ast.Attribute) else value
                home = homes.get(name.id, "") if isinstance(name, ast.Name) else ""
                if home in sources:
                    yield home


def test_workers_import_no_event_loop() -> None:
    """What workers are sent is in modules that bring them no event loop: each would take a tenth of a second.

    Nor is it shared: a worker that has it takes three megabytes more.
    """
    sent = sorted(set(find_sent(find_modules())))
    assert {"agent.node.filesystem.mount", "agent.csi.volumes.staged_record"} <= set(sent)
    code = f"""
import importlib, sys
for name in {sent!r}:
    importlib.import_module(name)
    if {{"asyncio", "anyio", "structlog"}} & sys.modules.keys():
        sys.exit(f"{{name}} does")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_collector_is_off_while_the_daemon_is_imported_and_on_when_it_runs() -> None:
    """What is imported stays: a collector goes through it neither meanwhile nor afterwards."""
    code = """
import gc, importlib, sys, tempfile
from pathlib import Path
import agent.cli.run as start
from agent.base.paths import Paths
import anyio

collected = []
gc.callbacks.append(lambda phase, info: collected.append("agent.daemon.start" in sys.modules))
def run(*_):
    assert "agent.daemon" in sys.modules and not any(collected), collected
    print(gc.isenabled(), gc.get_freeze_count() > 30_000)
anyio.run = run
start.run_daemon(Paths(Path(tempfile.mkdtemp())))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def test_the_daemon_s_command_maps_no_openssl() -> None:
    """Nor does what workers are forked from, which is there before the daemon is imported."""
    code = """
import os, tempfile
from pathlib import Path
import agent.cli.run as start
from agent.base.paths import Paths
import anyio

def run(*_):
    pid = os.getpid()
    for process in (pid, *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        maps = Path(f"/proc/{process}/maps").read_text()
        print("msgspec" in maps, *(library for library in ("libssl", "libcrypto") if library in maps))
anyio.run = run
start.run_daemon(Paths(Path(tempfile.mkdtemp())))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) > 1
    assert set(lines) <= {"True", "False"}
    assert lines[0] == "True"


MEMORY_KIB = 7 * 1024
"""What serving kubelet may take on top of the daemon."""


def test_the_kubernetes_face_is_small() -> None:
    """With all its libraries it fits in 7 MiB."""
    code = """
import agent.daemon, h11

def read_kib():
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss:"))

before = read_kib()
import agent.csi.face, agent.csi.service.plugin
print(read_kib() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < MEMORY_KIB
