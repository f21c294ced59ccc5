"""``ebs-agent fleet`` with a real mosquitto and Prometheus, told of by many nodes: a thousand in CI."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from agent.core.model import Condition, Reason, VolumeId
from agent.report.agent_counters import Counters
from agent.report.api import show_status
from agent.report.metrics.exposition import Exposition
from agent.report.mqtt.outbox import Topics
from tests.component.test_mqtt import (
    PASSWORD,
    Mosquitto,
    broker,  # noqa: F401 -- a fixture
    make_users,
)
from tests.prometheus import start_prometheus
from tests.scraped import serving_metrics
from tests.unit.report.samples import READY, make_board, make_status
from tests.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

NODES = 1000 if os.environ.get("CI") else 100
BAD = 7
"""The node whose first volume has failed."""


def run_fleet(*options: str, code: int = 0) -> Any:
    """Return what the command prints as JSON."""
    argv = [sys.executable, "-m", "agent", "fleet", "--json", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EBS_AGENT")}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else done.stderr


def make_statuses(node: int, volumes: int) -> Iterator[Any]:
    for number in range(volumes):
        status = make_status(READY, volume_id=VolumeId(f"vol-{node * volumes + number:017x}"))
        if (node, number) == (BAD, 0):
            status = make_status(status, condition=Condition.FAILED, reason=Reason.STALLED)
        yield status


def list_messages(volumes: int) -> Iterator[tuple[str, str]]:
    """Yield what all nodes publish."""
    for node in range(NODES):
        topics = Topics(f"ebs-agent/training/n{node}")
        yield topics.status, "offline" if node == 0 else "online"
        for status in make_statuses(node, volumes):
            yield topics.volume(status.volume_id), json.dumps(show_status(status), default=str)


def publish(port: int, messages: dict[str, str]) -> None:
    """Have a broker retain messages, by one connection."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.username_pw_set("agent", PASSWORD)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        for topic, payload in messages.items():
            client.publish(topic, payload, retain=True)
        client.publish("done", b"1", qos=1).wait_for_publish(60)
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.needs("mosquitto")
def test_broker_with_many_nodes(
    broker: Mosquitto,  # noqa: F811 -- the fixture
    tmp_path: Path,
) -> None:
    """Every volume of every node is told, the worst first; who may not ask is told so."""
    users = make_users(tmp_path)
    broker.settings = ["user root", "allow_anonymous false", f"password_file {users}"]
    broker.start()
    publish(broker.port, dict(list_messages(volumes=3)))
    url = f"mqtt://127.0.0.1:{broker.port}"
    known = ("--broker", url, "--username", "agent", "--password-file", str(tmp_path / "password"))
    told = run_fleet(*known)
    assert (told["nodes"], told["offline"], told["left_out"]) == (NODES, 1, 0)
    assert told["conditions"] == {"Failed": 1, "Ready": 3 * NODES - 1}
    assert [(row["node"], row["condition"]) for row in told["rows"][:2]] == [
        ("n7", "Failed"),
        ("n0", "Offline"),
    ]
    (stalled,) = run_fleet(*known, "--cluster", "training", "--reason", "stalled")["rows"]
    assert stalled["reasons"] == ["Stalled"]
    assert "cannot be asked" in run_fleet("--broker", url, code=4)
    # Staying, it tells what changes.
    with subprocess.Popen(
        [sys.executable, "-m", "agent", "fleet", "--json", "--watch", *known, "--node", "n1"],
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["offline"] == 0
        publish(broker.port, {"ebs-agent/training/n1/status": "offline"})
        assert json.loads(watching.stdout.readline())["offline"] == 1
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 0


# -- Prometheus ----------------------------------------------------------------------------------------------


@contextmanager
def serving_nodes(volumes: int) -> Iterator[int]:
    """Give the port at which the metrics of all nodes are, each at a path of its own."""
    bodies = [
        Exposition(make_board(*make_statuses(node, volumes)), Counters()).render()[0] for node in range(NODES)
    ]

    with serving_metrics(lambda path: bodies[int(path.strip("/"))]) as port:
        yield port


@contextmanager
def running_prometheus(directory: Path, scraped_port: int) -> Iterator[int]:
    """Give the port of a Prometheus that scrapes them all."""
    targets = [
        {
            "targets": [f"127.0.0.1:{scraped_port}"],
            "labels": {"__metrics_path__": f"/{node}", "instance": f"n{node}", "cluster": "training"},
        }
        for node in range(NODES)
    ]
    config = {
        "global": {"scrape_interval": "5s"},
        "scrape_configs": [{"job_name": "ebs-agent", "static_configs": targets}],
    }
    with start_prometheus(directory, config) as (port, _):
        yield port


def count_nodes(port: int) -> int:
    """Return how many nodes Prometheus has seen; 0 while it starts."""
    url = f"http://127.0.0.1:{port}/api/v1/query?query=count(ebs_agent_ready)"
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:
        return 0
    return int(found[0]["value"][1]) if found else 0


@pytest.mark.needs("prometheus")
def test_prometheus_with_many_nodes(tmp_path: Path) -> None:
    """The same of Prometheus; who cannot be asked is named."""
    with serving_nodes(volumes=2) as scraped, running_prometheus(tmp_path, scraped) as port:
        wait_until(lambda: count_nodes(port) == NODES, "all nodes are scraped")
        url = f"http://127.0.0.1:{port}"
        told = run_fleet("--prometheus", url)
        assert (told["nodes"], told["offline"]) == (NODES, 0)
        assert told["conditions"] == {"Failed": 1, "Ready": 2 * NODES - 1}
        worst = told["rows"][0]
        assert (worst["node"], worst["reasons"], worst["used"]) == ("n7", ["Stalled"], 0.5)
        assert run_fleet("--prometheus", url, "--cluster", 'oth"er')["rows"] == []
        (failed,) = run_fleet("--prometheus", url, "--cluster", "training", "--reason", "Failed")["rows"]
        assert failed["volume_id"] == worst["volume_id"]
        assert "404" in run_fleet("--prometheus", f"{url}/elsewhere", code=4)
    assert "cannot be asked" in run_fleet("--prometheus", url, code=4)
