"""The cloud half on real NVMe devices: an attach call makes one appear, ModifyVolume makes it grow."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typing_extensions import override

from tests.aws.cloud import CLUSTER_ARN, Cloud
from tests.aws.faults import Fault, Kind
from tests.aws.server import AwsServer
from tests.vm.cloud_volumes import GuestVolumes
from tests.vm.ebs import EbsTarget
from tests.vm.guest import Guest, GuestOptions
from tests.vm.guest_agent import EBS_AGENT, GuestAgent
from tests.waiting import wait_until

HOST = "10.0.2.2"
"""The machine the guest runs on, as QEMU's user network shows it."""
CONFIGURE_NETWORK = """
modprobe virtio-net
udevadm settle
name=$(ls /sys/class/net | grep -v '^lo$' | head -n 1)
ip address add 10.0.2.15/24 dev "$name"
ip link set "$name" up
"""
NETWORK = """
[Unit]
Wants=network.target
Before=network.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -euc '. /etc/configure-network'
ExecStop=/bin/sh -c 'ip link set "$(ls /sys/class/net | grep -v ^lo$ | head -n 1)" down'

[Install]
WantedBy=multi-user.target
"""
"""What manages the network, and takes it down when it is stopped."""
STAYS_UP = {
    "guest-command.service": "[Unit]\nBefore=ebs-agent.service\n",
    "ebs-target.service": "[Unit]\nDefaultDependencies=no\n",
}
"""By unit, what keeps a shutdown from stopping too early what stands for AWS, and for the hardware."""
FIRST, REPLACEMENT = "i-00000000000000001", "i-00000000000000002"


class OnlyAttaching(GuestVolumes):
    """The devices of the instance that is gone went with it: detaching from it touches none here."""

    def __init__(self, hooks: object) -> None:
        assert isinstance(hooks, GuestVolumes)
        super().__init__(hooks._target)

    @override
    def detach(self, volume_id: str, instance_id: str) -> None:
        del volume_id, instance_id


@pytest.fixture
def guest(boot_guest: Callable[[GuestOptions], Guest]) -> Guest:
    """Boot a guest that reaches this machine."""
    guest = boot_guest(GuestOptions(has_agent=True, has_network=True))
    guest.shell(CONFIGURE_NETWORK)
    return guest


@pytest.fixture
def target(guest: Guest) -> Iterator[EbsTarget]:
    with EbsTarget(guest) as target:
        yield target


@pytest.fixture
def aws(target: EbsTarget) -> Iterator[AwsServer]:
    with AwsServer(Cloud(GuestVolumes(target))) as server:
        yield server


def name_instance(instance_id: str) -> str:
    """Return an instance's name in the cluster, which no other instance ever has."""
    return f"hyperpod-{instance_id}"


def become(guest: Guest, aws: AwsServer, instance_id: str) -> None:
    """Let the guest be the instance of this ID, with a name that holds it, as on HyperPod with EKS."""
    aws.cloud.add_node(instance_id)
    name = name_instance(instance_id)
    instance = {"InstanceName": name, "CustomerIpAddress": "127.0.0.1", "InstanceId": instance_id}
    groups = [{"Name": "compute", "Instances": [instance]}]
    cluster = {"ClusterArn": CLUSTER_ARN, "ClusterType": "eks"}
    config = {"ClusterConfig": cluster, "InstanceGroups": groups}
    guest.shell(
        "mkdir -p /opt/ml/config /etc/systemd/system/ebs-agent.service.d; useradd -r ebs-agent-cloud || :"
    )
    guest.put("/opt/ml/config/resource_config.json", json.dumps(config).encode(), mode=0o600)
    port = aws.endpoint.rpartition(":")[2]
    environment = (
        f"EBS_AGENT_CLOUD_ENDPOINT=http://{HOST}:{port} AWS_EC2_METADATA_DISABLED=true "
        "AWS_ACCESS_KEY_ID=emulated AWS_SECRET_ACCESS_KEY=emulated"
    )
    guest.put(
        "/etc/systemd/system/ebs-agent.service.d/cloud.conf",
        f"[Service]\nEnvironment={environment}\n".encode(),
    )
    guest.run(["systemctl", "daemon-reload"])


def read_tag(volume: Any, key: str) -> str | None:
    return next((str(tag["value"]) for tag in volume.get_tags() if tag["key"] == key), None)


def write_policy(agent: GuestAgent, size: str, snapshot: str | None = None) -> None:
    """Write a policy that claims a volume, and a copy made from its snapshot."""
    claims = [("ckpt", {"class": "fast", "size": size}, "if-blank")]
    if snapshot is not None:
        claims.append(("copy", {"class": "fast", "size": size, "from": snapshot}, "never"))
    entries = [
        {
            "name": name,
            "claim": claim,
            "filesystem": {"type": "ext4", "format": rule},
            "mount": {"path": f"/data/{name}"},
            "grow": True,
        }
        for name, claim, rule in claims
    ]
    policy = {
        "version": 1,
        "agent": {"allowed_roots": ["/data"], "resync": "10s", "cloud": {"enabled": True}},
        "classes": {"fast": {"type": "gp3"}},
        "volumes": entries,
    }
    agent.guest.put("/etc/ebs-agent/policy.yaml", json.dumps(policy).encode(), mode=0o600)


def wait_ready(guest: Guest, *names: str) -> None:
    guest.run([EBS_AGENT, "wait", *names, "--timeout", "240"], timeout_s=300)


ATTEMPTS = """
import os, socket
attempts = {
    "read the policy": lambda: open("/etc/ebs-agent/policy.yaml"),
    "read the cluster's file": lambda: open("/opt/ml/config/resource_config.json"),
    "list the agent's state": lambda: os.listdir("/var/lib/ebs-agent"),
    "read a disk": lambda: os.open("/dev/vda", os.O_RDONLY),
    "give the daemon orders": lambda: socket.socket(socket.AF_UNIX).connect("/run/ebs-agent/agent.sock"),
    "become root": lambda: os.setuid(0),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except PermissionError:
        continue
    print(name)
"""


def check_worker(guest: Guest) -> None:
    """The process that speaks to AWS is nobody: it can do none of what the daemon may."""
    pid = guest.shell("pgrep -f agent.cloud.aws_worker.main | head -n 1").strip()
    lines = guest.shell("cat /proc/$1/status", pid).splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    uid, gid = status["Uid"].split()[0], status["Gid"].split()[0]
    assert uid == guest.shell("id -u ebs-agent-cloud").strip()
    assert set(status["Groups"].split()) <= {gid}
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    same = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
    argv = [*same, "python3", "-I", "-S", "-c", ATTEMPTS]
    assert guest.run(argv, timeout_s=60).stdout.decode() == ""


@pytest.mark.timeout(1200)
def test_life_of_a_claim(guest: Guest, aws: AwsServer) -> None:
    """Made, attached, formatted, written, expanded under load, snapshot frozen, restored, taken over.

    The instance that takes over has another name, so what it takes are volumes of pools, with their data.
    """
    become(guest, aws, FIRST)
    agent = GuestAgent(guest).install()
    write_policy(agent, "1GiB")
    agent.start()
    wait_ready(guest, "ckpt")
    (volume,) = aws.cloud.volumes
    check_worker(guest)

    guest.shell("head -c 8M /dev/urandom > /data/ckpt/weights; sync -f /data/ckpt/weights")
    load = guest.start_command(
        [
            "sh",
            "-c",
            "n=0; while test ! -e /data/ckpt/stop; do echo $n >> /data/ckpt/journal; n=$((n + 1)); done",
        ]
    )
    write_policy(agent, "3GiB")
    agent.reload()
    guest.wait_until(
        ["sh", "-c", "test $(df --output=size -B1 /data/ckpt | tail -n 1) -gt 2600000000"], timeout_s=120
    )
    said = guest.run([EBS_AGENT, "snapshot", "ckpt", "--wait"], timeout_s=300).stdout.decode()
    guest.shell("touch /data/ckpt/stop")
    load.wait(60)
    assert "with writes held" in said
    snapshot = next(word for word in said.split() if word.startswith("snap-"))

    write_policy(agent, "3GiB", snapshot)
    agent.reload()
    wait_ready(guest, "copy")
    guest.shell("cmp /data/ckpt/weights /data/copy/weights; test -s /data/copy/journal")

    agent.stop()
    before = guest.shell("sha256sum < /data/ckpt/weights")
    guest.shell("umount /data/ckpt /data/copy")
    for held in list(aws.cloud.volumes):
        aws.cloud.hooks.detach(held, FIRST)
    aws.cloud.remove_node(FIRST, keeps_attachments=True)
    become(guest, aws, REPLACEMENT)
    agent.install()  # a fresh root: no records of what was formatted or mounted
    aws.cloud.hooks = OnlyAttaching(aws.cloud.hooks)
    agent.start()
    wait_ready(guest, "ckpt", "copy")
    assert guest.shell("sha256sum < /data/ckpt/weights") == before
    assert agent.read_events("volume.formatted") == []
    assert volume in aws.cloud.volumes
    assert len(aws.cloud.volumes) == 2
    assert {read_tag(one, "ebs-agent:node") for one in aws.cloud.volumes.values()} == {
        name_instance(REPLACEMENT)
    }
    guest.shell("cmp /data/ckpt/weights /data/copy/weights; test -s /data/copy/journal")
    assert aws.calls["DetachClusterNodeVolume"] == 2


@pytest.mark.timeout(600)
def test_volume_attached_before_aws_answers_is_not_formatted(
    guest: Guest, target: EbsTarget, aws: AwsServer
) -> None:
    """Blank, and hot-attached while nobody answers: it waits, and is refused once its snapshot is named."""
    become(guest, aws, FIRST)
    snapshot = aws.cloud.ec2.create_snapshot(aws.cloud.make_volume(1), "").id
    volume = aws.cloud.make_volume(1, snapshot_id=snapshot)
    agent = GuestAgent(guest).install()
    agent.write_policy(
        {
            "name": "data",
            "match": {"volume_id": volume},
            "filesystem": {"type": "ext4", "format": "if-blank"},
            "mount": {"path": "/data/data"},
        },
        cloud={"enabled": True, "attach_api": "none"},
    )
    aws.faults.add(Fault("*", Kind.SILENCE, times=1_000_000))
    agent.start()
    target.attach(volume)
    asked = aws.calls["DescribeVolumes"]
    agent.wait_condition(volume, "Pending", "WaitingForCloud")
    wait_until(lambda: aws.calls["DescribeVolumes"] > asked, "AWS was asked in vain", timeout_s=120)
    assert agent.wait_condition(volume, "Pending", "WaitingForCloud")["device"]
    assert target.count_writes(volume) == 0
    aws.faults.clear()
    assert snapshot in agent.wait_condition(volume, "Refused", "FromSnapshot")["message"]
    assert target.count_writes(volume) == 0
    assert agent.read_events("volume.formatted") == []


HOLD = """
systemd-run --quiet --unit=holder --property=TimeoutStopSec=40s \\
    sh -c 'trap "" TERM; exec 3>> /data/db/kept; exec sleep infinity'
until fuser --silent /data/db/kept; do sleep 0.1; done
"""
"""Holds a volume for longer than the agent's unit may take to stop."""


def prepare_power_off(guest: Guest, target: EbsTarget, aws: AwsServer) -> tuple[GuestAgent, str]:
    """Have the guest be a node whose volumes leave at a power-off; return its agent and its one volume."""
    for unit, drop_in in STAYS_UP.items():
        guest.put(f"/etc/systemd/system/{unit}.d/stays-up.conf", drop_in.encode())
    guest.put("/etc/configure-network", CONFIGURE_NETWORK.encode())
    guest.put("/etc/systemd/system/emulated-network.service", NETWORK.encode())
    become(guest, aws, FIRST)
    target.kill()
    target.start()
    volume = aws.cloud.make_volume(1)
    agent = GuestAgent(guest).install()
    mounted = {"filesystem": {"type": "ext4", "format": "if-blank"}, "mount": {"path": "/data/db"}}
    agent.write_policy(
        {"name": "db", "match": {"volume_id": volume}, **mounted},
        cloud={"enabled": True, "release_on": ["power-off"]},
    )
    guest.run(["systemctl", "enable", "emulated-network.service"])
    guest.run(["sync"])
    return agent, volume


@pytest.mark.timeout(900)
def test_volumes_leave_a_machine_that_is_powered_off_and_no_other(
    guest: Guest, target: EbsTarget, aws: AwsServer
) -> None:
    """Stopped, and rebooted, the agent detaches nothing; at a power-off it does while the network is there.

    What has left is attached and mounted again by itself when the machine is started, with its data.
    """
    agent, volume = prepare_power_off(guest, target, aws)

    def start() -> None:
        target.start()
        agent.start()
        wait_ready(guest, "db")

    start()
    guest.shell("echo kept > /data/db/kept")
    guest.reboot()
    target.start()
    target.connect(volume)  # which stayed attached
    start()
    agent.stop()
    agent.start()
    wait_ready(guest, "db")
    assert aws.calls["DetachClusterNodeVolume"] == 0
    guest.shell("cmp /data/db/kept - << 'END'\nkept\nEND\necho more > /data/db/kept")

    guest.power_off(timeout_s=300)
    assert aws.calls["DetachClusterNodeVolume"] == 1
    assert aws.cloud.volumes[volume].status == "available"
    guest.start()
    start()
    assert guest.shell("cat /data/db/kept") == "more\n"
    assert agent.read_events("volume.formatted") == []


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_volume_in_use_at_a_power_off_leaves_once_it_is_free(
    guest: Guest, target: EbsTarget, aws: AwsServer
) -> None:
    """It is waited for longer than the unit says: the agent asks for time. Who was in the way is told."""
    agent, volume = prepare_power_off(guest, target, aws)
    agent.start()
    wait_ready(guest, "db")
    guest.shell(HOLD)
    guest.power_off(timeout_s=400)
    assert aws.calls["DetachClusterNodeVolume"] == 1
    assert aws.cloud.volumes[volume].status == "available"
    guest.start()
    target.start()
    agent.start()
    wait_ready(guest, "db")
    told = guest.run([EBS_AGENT, "events", "--json"]).stdout.decode().splitlines()
    events = {event["event"]: event for event in map(json.loads, told)}
    assert "sleep" in events["volume.not_let_go"]["error"]
    assert events["instance.left"]["left"] == []
