"""The installation as HyperPod does it: the folder from S3, on_create.sh, and boots that nobody helps."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.test_systemd import EXPOSURE
from tests.vm.bundles import VERSION, make_folder
from tests.vm.foreign_python import OLDEST, find_oldest_python, put_python
from tests.vm.guest.agent_disk import GUEST_PYTHON
from tests.vm.guest_agent import UNIT, make_entry
from tests.vm.hyperpod_node import HOME, INSTALL_TIMEOUT_S, INSTANCE_NAME, LOG, STAGED, HyperPodNode
from tests.vm.installed_node import (
    BARE,
    CHECKPOINTS,
    FIRST_INSTANCE,
    LONG_S,
    SIZE_BYTES,
    TARGET,
    BootGuest,
    check_faces,
    check_in_use,
)

DATASETS = "vol-0fedcba9876543210"
LATER_INSTANCE = "i-0fedcba9876543210"

HELD = """
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'findmnt --noheadings --output SOURCE --mountpoint /data/checkpoints > /run/%N || :'
[Install]
WantedBy=multi-user.target
"""
"""A service that notes whether the volume was there when it was started."""
WITHOUT_IT_NOT = f"[Unit]\nRequires={TARGET}\nAfter={TARGET}\nRequiresMountsFor=/data/checkpoints\n{HELD}"
CONTAINERD = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"

pytestmark = pytest.mark.timeout(2700)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make what `make bundle` makes, for this processor."""
    return make_folder(tmp_path_factory.mktemp("bundle"))


@pytest.mark.parametrize("python", [OLDEST if find_oldest_python() else GUEST_PYTHON])
def test_a_node_and_the_one_after_a_software_update(boot_guest: BootGuest, folder: Path, python: str) -> None:
    """Killed, run twice at once and run again, on_create.sh ends with volumes in use, then and after a boot.

    When an update has rewritten the root, with another Python on it, the data is found, nothing formatted.
    """
    node = HyperPodNode(boot_guest(BARE))
    guest = node.guest
    assert guest.shell("ls /sys/class/net").split() == ["lo"], "the network is cut"
    path = f"/data/checkpoints/{INSTANCE_NAME}"
    entries = [
        make_entry(
            CHECKPOINTS, "ext4", "/data/checkpoints/{instance_name}", name="checkpoints", required=True
        ),
        make_entry(DATASETS, "xfs", "/data/datasets"),
    ]
    guest.nvmet.create(CHECKPOINTS, SIZE_BYTES)
    guest.nvmet.create(DATASETS, SIZE_BYTES)

    def prepare() -> None:
        guest.run(["useradd", "--create-home", "researcher"])
        node.join_cluster(FIRST_INSTANCE)
        node.set_hardware([CHECKPOINTS, DATASETS])
        node.start_hardware()

    prepare()
    broker = {"mqtt": {"host": "127.0.0.1", "port": 1}}
    node.stage(folder, entries, agent=broker, has_hooks=True)
    for moment, is_whole in (
        (f"ls {HOME}/*/lib/*/site-packages/botocore", False),
        (f"ls {HOME}/*/.complete", True),
        (f"ls {HOME}/.unproven {HOME}/current", True),
    ):
        node.kill_installation_when(f"{moment} > /dev/null 2>&1")
        assert node.list_releases() == ([VERSION] if is_whole else [])
        assert node.find_release() in {None, VERSION}
    runs = [guest.start_command(["bash", f"{STAGED}/on_create.sh"]) for _ in range(2)]
    outputs = [run.wait(INSTALL_TIMEOUT_S, check=True).stdout.decode() for run in runs]
    assert sum("is in force already" in output for output in outputs) == 1, outputs
    assert node.find_release() == node.read_version() == VERSION
    check_in_use(node, CHECKPOINTS, DATASETS)
    guest.shell('echo precious > "$1/file"; sync -f "$1/file"', path)
    guest.wait_until(["test", "-d", f"{path}/users/researcher"], timeout_s=LONG_S)
    assert guest.shell('stat --format "%a %U:%G" "$1/shared" "$1/users/researcher"', path).split("\n")[
        :2
    ] == [
        "2775 root:users",
        "700 researcher:researcher",
    ]
    check_units(node)
    check_faces(node, "mqtt")

    before = node.show(UNIT, "InvocationID")
    assert "is in force already" in node.install()
    assert node.show(UNIT, "InvocationID") == before, "run again it restarts nothing"
    assert "is in force already" in guest.get(LOG).decode()
    assert guest.shell("journalctl --identifier=ebs-agent-install --grep='is in force already' --lines=1")

    node.unstage()
    guest.reboot()
    check_in_use(node, CHECKPOINTS, DATASETS)
    assert guest.get(f"{path}/file") == b"precious\n"

    guest.rewrite_root()
    assert node.find_release() is None
    prepare()
    home = find_oldest_python()
    command = put_python(guest, home) if home else "python3"
    node.stage(folder, entries, settings={"EBS_AGENT_PYTHON": command})
    node.install()
    assert guest.shell(f"{HOME}/current/bin/python --version").startswith(f"Python {python}.")
    check_in_use(node, CHECKPOINTS, DATASETS)
    assert guest.get(f"{path}/file") == b"precious\n"
    assert node.agent.read_events("volume.formatted") == []


def check_units(node: HyperPodNode) -> None:
    """Check what systemd says of the units that run, and that what speaks to AWS does not run as root."""
    units = [f"/etc/systemd/system/{name}" for name in (UNIT, "ebs-volumes-ready.service", TARGET)]
    assert node.guest.shell('systemd-analyze verify --man=no "$@" 2>&1', *units) == ""
    for unit, limit in EXPOSURE.items():
        text = node.guest.shell(
            'systemd-analyze security --no-pager "$1"', unit.replace("@.", "@0."), timeout_s=LONG_S
        )
        found = re.search(r"Overall exposure level for \S+: ([\d.]+)", text)
        assert found, text
        assert float(found[1]) <= limit, text
    watch = node.show(UNIT, "WatchdogUSec", "NotifyAccess")
    assert watch == {"WatchdogUSec": "30s", "NotifyAccess": "main"}
    check_faces(node, "cloud", "web")
    # Who runs as root speaks with nobody over TLS, so it maps no code of it, not even once it was asked.
    maps = node.guest.shell(
        'for pid in $(cat "/sys/fs/cgroup/system.slice/$1/cgroup.procs"); do cat "/proc/$pid/maps"; done',
        UNIT,
    )
    assert "/ebs-agent/" in maps
    assert not re.search(r"/lib(ssl|crypto)\.so", maps)


def test_a_replaced_node_and_the_order_of_its_boots(boot_guest: BootGuest, folder: Path) -> None:
    """A node that takes another's place has its data, and what needs volumes starts after them.

    A boot without network and metadata mounts all the same. A missing required volume fails on_create.sh, and
    is mounted when it comes.
    """
    node = HyperPodNode(boot_guest(BARE))
    guest = node.guest
    old = guest.nvmet.attach(CHECKPOINTS, SIZE_BYTES)
    guest.shell('mkfs.ext4 -q "$1"; mount "$1" /mnt; echo precious > /mnt/file; umount /mnt', old)
    guest.nvmet.disconnect(CHECKPOINTS)
    guest.nvmet.create(DATASETS, SIZE_BYTES)
    for name, unit in (("held", HELD), ("strict", WITHOUT_IT_NOT), ("containerd", CONTAINERD)):
        guest.put(f"/etc/systemd/system/{name}.service", unit.encode())
    guest.shell(
        "mkdir /var/lib/containerd; echo image > /var/lib/containerd/blob; systemctl enable --now containerd"
    )
    guest.shell("systemctl enable held strict")
    node.join_cluster(LATER_INSTANCE)
    node.set_hardware([DATASETS])
    node.start_hardware()
    entries = [
        make_entry(CHECKPOINTS, "ext4", "/data/checkpoints", required=True),
        make_entry(DATASETS, "xfs", "/data/cache", name="container-cache"),
    ]
    settings = {"EBS_AGENT_HOLD": "held", "EBS_AGENT_WAIT_S": 3}
    node.stage(folder, entries, settings=settings, has_hooks=True)

    status, output = node.run_lifecycle_script()
    assert status == 1, "a required volume is missing"
    assert "required volumes are not ready" in output
    assert not node.is_active(TARGET)
    guest.nvmet.connect(CHECKPOINTS)
    node.agent.wait_condition(CHECKPOINTS, "Ready")
    node.install()
    check_in_use(node, CHECKPOINTS, DATASETS)
    assert guest.get("/data/checkpoints/file") == b"precious\n"
    formatted = node.agent.read_events("volume.formatted")
    assert [event["volume_id"] for event in formatted] == [DATASETS]
    guest.wait_until(["test", "-L", "/var/lib/containerd"], timeout_s=LONG_S)
    guest.wait_until(["systemctl", "is-active", "containerd"], timeout_s=LONG_S)
    assert guest.get("/data/cache/containerd/blob") == guest.get("/var/lib/containerd/blob") == b"image\n"

    node.set_hardware([CHECKPOINTS, DATASETS], has_network=False)
    guest.reboot()
    check_in_use(node, CHECKPOINTS, DATASETS)
    device = guest.nvmet.find_device(CHECKPOINTS)
    for unit in ("held", "strict"):
        assert guest.get(f"/run/{unit}").decode().strip() == device
        assert read_moment(node, f"{unit}.service") >= read_moment(node, TARGET)
    assert "data-checkpoints.mount" in node.show("strict.service", "After")["After"].split()


def read_moment(node: HyperPodNode, unit: str) -> int:
    """Return when a unit became active, in microseconds since the boot."""
    return int(node.show(unit, "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"])


def test_another_kernel_systemd_and_python(boot_guest: BootGuest, folder: Path) -> None:
    """Debian 13 differs in all three: the bundle has wheels for it, and volumes come at each boot."""
    node = HyperPodNode(boot_guest(replace(BARE, release="trixie")))
    guest = node.guest
    volumes = {
        "vol-00000000000000001": "ext4",
        "vol-00000000000000002": "xfs",
        "vol-00000000000000003": "btrfs",
    }
    for volume in volumes:
        guest.nvmet.create(volume, SIZE_BYTES)
    node.join_cluster(FIRST_INSTANCE)
    node.set_hardware(list(volumes))
    node.start_hardware()
    entries = [make_entry(volume, kind, f"/data/{kind}", required=True) for volume, kind in volumes.items()]
    node.stage(folder, entries)
    node.install()
    versions = guest.shell(f"uname -r; systemctl --version; {HOME}/current/bin/python --version")
    assert re.fullmatch(r"6\.12\..*\nsystemd 257 .*\nPython 3\.13\.\d+\n", versions, re.DOTALL)
    check_in_use(node, *volumes)
    check_units(node)
    guest.shell("for kind in ext4 xfs btrfs; do echo precious > /data/$kind/file; done; sync")
    node.unstage()
    guest.reboot()
    check_in_use(node, *volumes)
    assert guest.shell("cat /data/*/file") == "precious\n" * 3
