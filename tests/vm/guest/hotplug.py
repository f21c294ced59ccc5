"""QEMU's own NVMe devices: PCI devices that are plugged in and out while the guest runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tests.vm.guest.errors import GuestError
from tests.vm.guest.machine import list_ports, to_serial
from tests.vm.guest.qmp import QmpClient

UNPLUG_TIMEOUT_S = 30.0


class HotPlug:
    """The ports of one guest and the volumes in them, which stay there when its power goes."""

    def __init__(self, directory: Path, images: Mapping[str, Path], connect: Callable[[], QmpClient]) -> None:
        self._directory = directory
        self._connect = connect
        self.images = dict(images)
        """By port, the image that is plugged into it; its file is named by volume ID."""

    def list_volumes(self) -> list[str]:
        """Return the IDs of the volumes that are plugged in."""
        return [image.stem for image in self.images.values()]

    def plug(self, volume_id: str, image: Path) -> None:
        """Plug a raw image in as an NVMe device whose serial is the volume's."""
        port = next((name for name in list_ports() if name not in self.images), None)
        if port is None:
            raise GuestError(f"all {len(self.images)} ports are taken: unplug a volume first")
        link = self._directory / f"{volume_id}.img"
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(image.absolute())
        qmp = self._connect()
        node = f"node-{volume_id}"
        file = {"driver": "file", "filename": str(link)}
        qmp.execute("blockdev-add", node_name=node, driver="raw", discard="unmap", file=file)
        qmp.execute(
            "device_add", driver="nvme", id=volume_id, serial=to_serial(volume_id), drive=node, bus=port
        )
        self.images[port] = link

    def unplug(self, volume_id: str) -> None:
        """Unplug an NVMe device and wait until the guest's kernel has let go of it."""
        port = next((port for port, image in self.images.items() if image.stem == volume_id), None)
        if port is None:
            raise GuestError(f"{volume_id} is not plugged in")
        qmp = self._connect()
        qmp.execute("device_del", id=volume_id)
        qmp.wait_event("DEVICE_DELETED", lambda event: event.get("device") == volume_id, UNPLUG_TIMEOUT_S)
        qmp.execute("blockdev-del", node_name=f"node-{volume_id}")
        del self.images[port]
