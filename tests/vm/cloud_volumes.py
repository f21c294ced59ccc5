"""Volumes of the emulated cloud that are a guest's: its emulated EBS does what the cloud is asked to do."""

from __future__ import annotations

from tests.vm.ebs import HOME, EbsTarget

GIB = 1 << 30


class GuestVolumes:
    """Hooks of the cloud: attached, grown and copied are the devices of one guest, bytes and all.

    ``instance_id``: the node that the guest is, what others attach being no device anywhere; None: the guest
    is every node.
    """

    def __init__(self, target: EbsTarget, instance_id: str | None = None) -> None:
        self._target = target
        self._instance_id = instance_id

    def create(self, volume_id: str, size_gib: int, source_id: str | None) -> None:
        made = {"do": "create", "volume": volume_id, "size_bytes": size_gib * GIB}
        if source_id is None:
            self._target.call_all([made])
        elif source_id.startswith("snap-"):
            self._target.call_all([{**made, "source": _name_copy(source_id)}])
        else:
            moment = _name_copy(volume_id)
            taken = {"do": "snapshot", "volume": source_id, "path": moment}
            self._target.call_all([taken, {**made, "source": moment}])

    def attach(self, volume_id: str, instance_id: str, device: str) -> None:
        if self._is_guest(instance_id):
            self._target.attach(volume_id, device_name=device)

    def detach(self, volume_id: str, instance_id: str) -> None:
        if self._is_guest(instance_id):
            self._target.pull(volume_id)

    def grow(self, volume_id: str, size_gib: int) -> None:
        self._target.grow(volume_id, size_gib * GIB)

    def snapshot(self, volume_id: str, snapshot_id: str) -> None:
        self._target.call("snapshot", volume=volume_id, path=_name_copy(snapshot_id))

    def _is_guest(self, instance_id: str) -> bool:
        return self._instance_id in {None, instance_id}


def _name_copy(of: str) -> str:
    """Return where in the guest the bytes of a snapshot are, or those that a copied volume begins with."""
    return f"{HOME}/{of}"
