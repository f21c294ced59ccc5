"""The emulated EBS of a guest: volumes that its own kernel attaches, and that a test stalls, pulls and grows.

Puts `tests.ebs` into the guest, runs it there and speaks to its control socket; see docs/emulated-ebs.md.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from tests.ebs import TargetError
from tests.vm.guest import Guest, GuestProcess
from tests.vm.guest.agent_disk import REPOSITORY

# Not the port of the guest's kernel target, so that both can serve at once.
PORT = 4421
HOME = "/scratch/ebs-target"
VOLUMES = f"{HOME}/volumes"
LOG = f"{HOME}/log"
CONTROL = "/run/ebs-target.sock"
START_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 120.0
# What EBS recommends: a volume that does not answer is waited for, not given up.
IO_TIMEOUT_S = 4294967295
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


class EbsTarget:
    """The target process of one guest. Volumes outlive it and the guest's reboots; `close` removes them."""

    def __init__(self, guest: Guest, *, io_timeout_s: int = IO_TIMEOUT_S) -> None:
        self._guest = guest
        self._io_timeout_s = io_timeout_s
        self._process: GuestProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._guest.is_alive():
            self.close()

    def start(self) -> None:
        """Start serving: the volumes there are, attached ones at once, as before the target ended."""
        self._guest.put_tree(Path(REPOSITORY), f"{HOME}/code", names=["tests/__init__.py", "tests/ebs"])
        self._guest.shell(
            'modprobe nvme-tcp; echo "$1" > /sys/module/nvme_core/parameters/io_timeout',
            str(self._io_timeout_s),
        )
        serve = ["python3", "-m", "tests.ebs", "--control", CONTROL, "serve", "--connect"]
        serve += ["--directory", VOLUMES, "--listen", f"127.0.0.1:{PORT}"]
        argv = ["sh", "-c", 'log=$1; shift; exec "$@" >> "$log" 2>&1', "sh", LOG, *serve]
        self._guest.run(["rm", "-f", CONTROL])  # of a target that was killed: its reappearance says it serves
        self._process = self._guest.start_command(argv, cwd=f"{HOME}/code")
        self._guest.wait_until(["test", "-S", CONTROL], timeout_s=START_TIMEOUT_S)

    def kill(self) -> None:
        """End the target without a warning; the kernel keeps its devices and tries to reach it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(START_TIMEOUT_S)

    def close(self) -> None:
        """Take every volume and its bytes away, and end the target."""
        shown = self.call("show")
        serials = [volume["serial"] for volume in shown]
        # What waits for a volume that a failed test left stalled would hold up all that follows.
        self.call_all([{"do": "heal", "volume": volume["volume_id"]} for volume in shown])
        self._guest.shell(UNMOUNT, *serials)
        self.call("clear")
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(START_TIMEOUT_S, check=True)

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
