"""The emulated EBS of a guest: volumes that its own kernel attaches, and that a test stalls, pulls and grows.

Puts `tests.ebs` into the guest, runs it there and speaks to its control socket; see docs/emulated-ebs.md.
A target goes on from one test to the next, without volumes; it ends with its guest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from tests.ebs import TargetError
from tests.vm.guest import Guest
from tests.vm.guest.agent_disk import REPOSITORY
from tests.vm.guest.cache import hash_tree

# Not the port of the guest's kernel target, so that both can serve at once.
PORT = 4421
HOME = "/scratch/ebs-target"
VOLUMES = f"{HOME}/volumes"
LOG = f"{HOME}/log"
CONTROL = "/run/ebs-target.sock"
UNIT = "ebs-target.service"
START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 120.0
STALL_TIMEOUT_S = 240.0
# What EBS recommends: a volume that does not answer is waited for, not given up.
IO_TIMEOUT_S = 4294967295
# Prints whether a target of this code serves already; one of other code is ended.
PREPARE = f"""
modprobe nvme-tcp
echo "$1" > /sys/module/nvme_core/parameters/io_timeout
if systemctl is-active --quiet {UNIT} && [ "$(cat {HOME}/version)" = "$2" ]; then
    echo serving
else
    systemctl stop {UNIT} 2> /dev/null || :
    rm -f {CONTROL}
fi
"""
SERVE = f"""
echo "$1" > {HOME}/version
systemd-run --quiet --collect --unit={UNIT} --property=WorkingDirectory={HOME}/code \\
    --property=StandardOutput=append:{LOG} --property=StandardError=append:{LOG} \\
    python3 -m tests.ebs --control {CONTROL} serve --connect --directory {VOLUMES} --listen 127.0.0.1:{PORT}
"""
KILL = f"""
systemctl kill --signal=KILL {UNIT}
while systemctl is-active --quiet {UNIT}; do
    sleep 0.05
done
rm -f {CONTROL}
"""
UNMOUNT = """
disks=$(lsblk --nodeps --noheadings --output PATH,SERIAL)
for serial in "$@"; do
    for device in $(echo "$disks" | awk -v it="$serial" '$2 == it { print $1 }'); do
        for mountpoint in $(findmnt --raw --noheadings --output TARGET --source "$device" | sort -r); do
            umount --lazy "$mountpoint"
        done
    done
done
"""
# The control protocol by hand: importing the package costs an emulated processor seconds at every call.
CALL = """
import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
answers = connection.makefile()
for request in sys.argv[2:]:
    connection.sendall(request.encode() + b"\\n")
    sys.stdout.write(answers.readline())
"""

# The same, until all volumes are stalled, for the price of one command.
WAIT_STALLED = """
import json, socket, sys, time
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
answers = connection.makefile()
for volume in sys.argv[2:]:
    while True:
        connection.sendall(json.dumps({"do": "show", "volume": volume}).encode() + b"\\n")
        if json.loads(answers.readline())["done"][0]["faults"]["is_stalled"]:
            break
        time.sleep(0.1)
"""


def remove_ebs_volumes(guest: Guest) -> None:
    """Remove the volumes that a test left, whether or not a target serves them."""
    if guest.run(["systemctl", "is-active", "--quiet", UNIT], check=False).returncode == 0:
        EbsTarget(guest).clear()
    else:
        guest.run(["rm", "-rf", VOLUMES])


class EbsTarget:
    """The target process of one guest. Volumes outlive it and the guest's reboots; `clear` removes them."""

    def __init__(self, guest: Guest, *, io_timeout_s: int = IO_TIMEOUT_S) -> None:
        self._guest = guest
        self._io_timeout_s = io_timeout_s

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._guest.is_alive():
            self.clear()

    def start(self) -> None:
        """Start serving unless it serves: the volumes there are, as before the target ended."""
        version = hash_tree(REPOSITORY / "tests" / "ebs")
        if self._guest.shell(PREPARE, str(self._io_timeout_s), version):
            return
        self._guest.put_tree(Path(REPOSITORY), f"{HOME}/code", names=["tests/__init__.py", "tests/ebs"])
        self._guest.shell(SERVE, version)
        self._guest.wait_until(["test", "-S", CONTROL], timeout_s=START_TIMEOUT_S)

    def kill(self) -> None:
        """End the target without a warning; the kernel keeps its devices and tries to reach it."""
        self._guest.shell(KILL)

    def clear(self) -> None:
        """Take every volume and its bytes away."""
        volumes = self.call("show")
        if volumes:
            self.call_all([{"do": "heal", "volume": volume["volume_id"]} for volume in volumes])
            self._guest.shell(UNMOUNT, *(volume["serial"] for volume in volumes))
            self.call("clear")

    def call(self, do: str, **arguments: Any) -> Any:
        """Do one operation of `tests.ebs.control`; TargetError where the target says no."""
        (done,) = self.call_all([{"do": do, **arguments}])
        return done

    def call_all(self, requests: Sequence[dict[str, Any]]) -> list[Any]:
        """Do several operations, one after the other, for the price of one command in the guest."""
        argv = ["python3", "-I", "-S", "-c", CALL, CONTROL, *map(json.dumps, requests)]
        output = self._guest.run(argv, timeout_s=CALL_TIMEOUT_S + len(requests)).stdout
        answers = [json.loads(line) for line in output.splitlines()]
        for answer in answers:
            if "error" in answer:
                raise TargetError(answer["error"])
        return [answer["done"] for answer in answers]

    def attach(
        self, volume_id: str, size_bytes: int = 0, *, device_name: str = "/dev/sdf", **more: Any
    ) -> str:
        """Attach a volume, made of zeros where it does not exist; return its device, ``/dev/nvmeXn1``."""
        done = self.call("attach", volume=volume_id, size_bytes=size_bytes, device_name=device_name, **more)
        return str(done["device"])

    def connect(self, volume_id: str) -> str:
        """Attach a volume under the device name it had last; return its device."""
        return str(self.call("return", volume=volume_id)["device"])

    def disconnect(self, volume_id: str) -> None:
        """Detach a volume in good order."""
        self.call("detach", volume=volume_id)

    def pull(self, volume_id: str) -> None:
        """Take a volume away without warning, as a forced detach does."""
        self.call("pull", volume=volume_id)

    def grow(self, volume_id: str, size_bytes: int) -> None:
        """Make a volume larger; the kernel is told."""
        self.call("grow", volume=volume_id, size_bytes=size_bytes)

    def attach_stalling(self, volume_id: str, size_bytes: int, operation: str, *, after: int) -> None:
        """Attach a new volume that holds every command once so many of one kind were served."""
        stall = {"do": "stall", "volume": volume_id, "operations": [operation], "after": after}
        create = {"do": "create", "volume": volume_id, "size_bytes": size_bytes}
        self.call_all([create, stall, {"do": "attach", "volume": volume_id}])

    def wait_stalled(self, *volume_ids: str) -> None:
        """Wait until stalls that were to begin later have begun."""
        argv = ["python3", "-I", "-S", "-c", WAIT_STALLED, CONTROL, *volume_ids]
        self._guest.run(argv, timeout_s=STALL_TIMEOUT_S)

    def count_writes(self, volume_id: str) -> int:
        """Return how many writes of a volume were done since it was attached."""
        (volume,) = self.call("show", volume=volume_id)
        return int(volume["statistics"]["write"]["ops"])

    def count_all_writes(self) -> dict[str, int]:
        """Return by volume how many writes were done since it was attached."""
        return {
            volume["volume_id"]: int(volume["statistics"]["write"]["ops"]) for volume in self.call("show")
        }

    def find_device(self, volume_id: str) -> str | None:
        """Return the device that says this volume's serial now."""
        (volume,) = self.call("show", volume=volume_id)
        for line in self._guest.shell("lsblk --nodeps --noheadings --output PATH,SERIAL").splitlines():
            path, *serial = line.split()
            if serial == [volume["serial"]]:
                return path
        return None

    def read_log(self) -> str:
        """Return what the target logged."""
        return self._guest.get(LOG).decode()
