"""Volumes of the guest's own kernel target: nvmet over TCP on loopback, with EBS's model and serials.

Each volume is a file on the scratch disk, so it outlives reboots; the target's configuration does not, and
``connect`` makes it again. A volume is a subsystem and a controller of its own, as on EC2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.vm.guest.machine import to_serial

if TYPE_CHECKING:
    from tests.vm.guest.guest import Guest

CONNECT_TIMEOUT_S = 60.0
VOLUMES = "/scratch/volumes"
# Given to every script below: $1 is the volume ID, $2 its serial.
COMMON = f"""
id=$1 serial=$2
nqn=nqn.2024-01.test.ebs:$id
file={VOLUMES}/$id.img
target=/sys/kernel/config/nvmet
subsystem=$target/subsystems/$nqn
port=$target/ports/1
"""
EXPORT = """
modprobe nvme-tcp
modprobe nvmet-tcp
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
if ! [ -d $port ]; then
    mkdir $port
    echo tcp > $port/addr_trtype
    echo ipv4 > $port/addr_adrfam
    echo 127.0.0.1 > $port/addr_traddr
    echo 4420 > $port/addr_trsvcid
fi
if ! [ -d $subsystem ]; then
    mkdir $subsystem
    echo 1 > $subsystem/attr_allow_any_host
    echo "Amazon Elastic Block Store" > $subsystem/attr_model
    echo "$serial" > $subsystem/attr_serial
    mkdir $subsystem/namespaces/1
    # The file itself, not a loop device, which would be a second device with the same filesystem on it.
    echo $file > $subsystem/namespaces/1/device_path
    echo 1 > $subsystem/namespaces/1/enable
fi
[ -L $port/subsystems/$nqn ] || ln -s $subsystem $port/subsystems/$nqn
"""
# Prints the block device whose serial is $serial: nvmeXn1, never a hidden path nvmeXcYn1.
FIND = """
find_device() {
    for block in /sys/block/nvme*; do
        name=${block#/sys/block/}
        case $name in nvme*c*) continue;; esac
        [ "$(cat $block/device/serial 2>/dev/null | tr -d ' ')" = "$serial" ] || continue
        echo /dev/$name
        return
    done
    return 1
}
"""
WAIT_SHOWN = """
for attempt in $(seq 600); do
    device=$(find_device) && [ -b "$device" ] && echo $device && exit
    sleep 0.05
done
echo "no block device with serial $serial appeared" >&2
exit 1
"""
WAIT_GONE = """
for attempt in $(seq 600); do
    find_device > /dev/null || exit 0
    sleep 0.05
done
echo "$(find_device) is still there" >&2
exit 1
"""


class Nvmet:
    """The volumes of one guest's kernel target."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._volumes: set[str] = set()

    def create(self, volume_id: str, size_bytes: int) -> str:
        """Make a volume of zeros and return the path of its file in the guest; it is not attached yet."""
        path = f"{VOLUMES}/{volume_id}.img"
        self._guest.shell('mkdir -p "$(dirname "$1")"; truncate -s "$2" "$1"', path, str(size_bytes))
        self._volumes.add(volume_id)
        return path

    def connect(self, volume_id: str) -> str:
        """Attach a volume and return the device that it became, such as ``/dev/nvme0n1``."""
        # Without keep-alives a slow emulated machine loses no volume by being slow; with no time to come back
        # a connection that breaks takes the device with it at once, as on EC2.
        connect = "nvme connect -t tcp -a 127.0.0.1 -s 4420 -n $nqn --keep-alive-tmo=0 --ctrl-loss-tmo=0\n"
        return self._run(volume_id, EXPORT + connect + FIND + WAIT_SHOWN).strip()

    def attach(self, volume_id: str, size_bytes: int) -> str:
        """Make a volume and attach it; return its device."""
        self.create(volume_id, size_bytes)
        return self.connect(volume_id)

    def disconnect(self, volume_id: str) -> None:
        """Detach a volume in good order and wait until its device is gone; its data stays."""
        self._run(volume_id, "nvme disconnect -n $nqn >&2\n" + FIND + WAIT_GONE)

    def pull(self, volume_id: str) -> None:
        """Make a volume vanish without a word to the host, as a forced detach does; its data stays."""
        self._run(volume_id, "rm $port/subsystems/$nqn\n" + FIND + WAIT_GONE)

    def grow(self, volume_id: str, size_bytes: int) -> None:
        """Make an attached volume larger; the kernel hears of it as it does from EBS."""
        self._run(
            volume_id,
            "truncate -s $3 $file; echo 1 > $subsystem/namespaces/1/revalidate_size\n",
            str(size_bytes),
        )

    def find_device(self, volume_id: str) -> str | None:
        """Return an attached volume's device."""
        return self._run(volume_id, FIND + "find_device || :").strip() or None

    def remove(self, volume_id: str) -> None:
        """Detach a volume, take it out of the target and delete its data."""
        unexport = """
nvme disconnect -n $nqn >&2 || :
rm -f $port/subsystems/$nqn
if [ -d $subsystem ]; then
    echo 0 > $subsystem/namespaces/1/enable
    rmdir $subsystem/namespaces/1 $subsystem
fi
rm -f $file
"""
        self._run(volume_id, unexport + FIND + WAIT_GONE)
        self._volumes.discard(volume_id)

    def remove_all(self) -> None:
        """Remove every volume that was made by this object."""
        for volume_id in sorted(self._volumes):
            self.remove(volume_id)

    def _run(self, volume_id: str, script: str, *arguments: str) -> str:
        serial = to_serial(volume_id)
        return self._guest.shell(COMMON + script, volume_id, serial, *arguments, timeout_s=CONNECT_TIMEOUT_S)
