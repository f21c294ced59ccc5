"""``ebs-agent fleet`` over TLS with a real mosquitto, and its live table on a terminal."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from agent.core.model import Condition, Reason, VolumeId
from agent.report.api import show_status
from agent.report.mqtt.outbox import Topics
from tests.agent_process import reserve_port
from tests.component.test_fleet import publish, run_fleet
from tests.component.test_mqtt import Mosquitto, broker  # noqa: F401 -- a fixture
from tests.terminal import on_terminal
from tests.unit.report.samples import READY, make_status
from tests.waiting import wait_until

pytestmark = [pytest.mark.timeout(180), pytest.mark.needs("mosquitto")]

NEW_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"


def make_certificates(directory: Path) -> None:
    """Make two authorities and certificates of theirs: ``late-…`` have ended, ``other-…`` are the other's."""
    script = f"""
    printf 'subjectAltName=IP:127.0.0.1\\nauthorityKeyIdentifier=keyid\\n' > ext
    for ca in ca other-ca; do
        openssl req -x509 {NEW_KEY} -days 2 -subj /CN=$ca -keyout $ca.key -out $ca.pem \
            -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign
    done
    make() {{
        openssl req {NEW_KEY} -subj /CN=$1 -keyout $1.key -out $1.csr
        openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days $3 -extfile ext \\
            -out $1.pem
    }}
    make server ca 2; make late-server ca -1; make client ca 2; make late-client ca -1
    make other-client other-ca 2
    """
    subprocess.run(["sh", "-ec", script], cwd=directory, check=True, capture_output=True)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def tell(port: int, node: str, state: str = "online", condition: Condition = Condition.READY) -> None:
    """Have the broker retain a node with one volume."""
    topics = Topics(f"ebs-agent/training/{node}")
    reason = None if condition is Condition.READY else Reason.STALLED
    volume = VolumeId("vol-0123456789abcdef0")
    status = make_status(READY, volume_id=volume, condition=condition, reason=reason)
    shown = json.dumps(show_status(status), default=str)
    publish(port, {topics.status: state, topics.volume(volume): shown})


@pytest.mark.thorough
def test_tls_with_client_certificates(
    broker: Mosquitto,  # noqa: F811 -- the fixture
    tmp_path: Path,
) -> None:
    """Who shows a certificate that is believed is told; one that is not, on either side, ends in code 4."""
    make_certificates(tmp_path)
    plain = reserve_port()
    url = f"mqtts://127.0.0.1:{broker.port}"

    def begin(server: str) -> None:
        broker.settings = [
            *("user root", "allow_anonymous true", "require_certificate true", f"cafile {tmp_path}/ca.pem"),
            *(f"certfile {tmp_path}/{server}.pem", f"keyfile {tmp_path}/{server}.key"),
            f"listener {plain} 127.0.0.1",
        ]
        broker.start()
        wait_until(lambda: is_listening(plain), "the broker listens without TLS, too")

    def name(authority: str, client: str | None) -> tuple[str, ...]:
        own = ("--cert", f"{tmp_path}/{client}.pem", "--key", f"{tmp_path}/{client}.key")
        return ("--broker", url, "--ca", f"{tmp_path}/{authority}.pem", *(own if client else ()))

    begin("server")
    tell(plain, "n1")
    told = run_fleet(*name("ca", "client"))
    assert [row["node"] for row in told["rows"]] == ["n1"]
    for authority, client in (
        ("other-ca", "client"),
        ("ca", None),
        ("ca", "late-client"),
        ("ca", "other-client"),
    ):
        said = run_fleet(*name(authority, client), code=4)
        assert said.startswith(f"ebs-agent: The broker 127.0.0.1:{broker.port} cannot be asked: "), said
        assert ("CERTIFICATE_VERIFY_FAILED" in said) == (authority == "other-ca"), said
    broker.stop()
    begin("late-server")
    assert "certificate has expired" in run_fleet(*name("ca", "client"), code=4)


def test_live_table(
    broker: Mosquitto,  # noqa: F811 -- the fixture
) -> None:
    """It fits the window and follows it, tells changes and a broker that is away, and ends by Ctrl-C."""
    broker.settings = ["allow_anonymous true"]
    broker.start()
    tell(broker.port, "n1")
    tell(broker.port, "n2")
    url = f"mqtt://127.0.0.1:{broker.port}"
    with on_terminal(60, "fleet", "--watch", "--broker", url, "--node", "n1") as screen:
        screen.wait_for(lambda text: "n1" in text and "SIZE" in text, "the table is there")
        screen.resize(200, 50)
        screen.wait_for(lambda text: "USED AT" in text and "/data/ckpt" in text, "it is as wide")
        screen.resize(30, 10)
        screen.wait_for(lambda text: "CONDITION" in text and "SIZE" not in text, "it is as narrow")
        tell(broker.port, "n1", condition=Condition.FAILED)
        screen.wait_for(lambda text: "Failed" in text and "n2" not in text, "the change is told, of one node")
        broker.stop()
        screen.wait_for(lambda text: "cannot be asked" in text, "it is told that the broker is away")
        broker.start()
        tell(broker.port, "n1", "offline")
        screen.wait_for(lambda text: "1 not heard" in text, "it is heard again")
        screen.process.send_signal(signal.SIGINT)
        assert screen.process.wait(30) == 0
