"""What a trial write adds to the sample of a mount: asked by the daemon, which knows what it froze itself."""

from __future__ import annotations

from agent.core.errors import FrozenError
from agent.core.model import VolumeId
from agent.core.replace import replace
from agent.node.filesystem.frozen_filesystems import Freezes
from agent.node.sampling.values import MountSample


async def try_writing(
    freezes: Freezes, volume: VolumeId, mount: MountSample, timeout_s: float
) -> MountSample:
    """Return the sample with what came of making a nameless file there; as it is while we froze it.

    Raises NotAnsweringError where that is not answered, and for another reason than a freeze.
    """
    number = mount.device_number
    if number is None or freezes.is_held(volume) or mount.is_read_only or mount.root_errno is not None:
        return mount
    try:
        failure = await freezes.try_writing(volume, mount.path, number, mount.mount_id, timeout_s)
    except FrozenError:
        return replace(mount, is_frozen=not freezes.is_held(volume))
    return replace(mount, write_errno=failure)
