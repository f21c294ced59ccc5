"""Which filesystems are frozen: by the agent for a snapshot, which it knows, or by somebody else.

That somebody else did so is found by a worker that begins to write and is seen to wait, before a step that
would have to wait, and where the policy has writes tried. It stays until the thaw, whatever ends it, so it is
about a subject of its own: the volume is looked at and sampled meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from agent.core.errors import FrozenError, NotAnsweringError, NotMountedError
from agent.core.frozen_filesystem import hint_at_thaw, tell_frozen
from agent.core.model import DeviceNumber, Mount, Observed, Reason, VolumeId
from agent.core.steps import Action, GrowFilesystem, MoveMount, Remount, SetRootOwnership, Unmount
from agent.node.filesystem.try_write import begin_write, probe_write
from agent.node.isolate.workers import Workers

BEGIN_TIMEOUT_S = 5.0
"""To begin to write takes no I/O, but the directory's lock: whoever holds that one has a slow device."""
_PREFIX = "writes to "


class Freezes:
    """What is known of frozen filesystems; ``hear_thaw`` is told of a volume that was found so and is not."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._held: set[VolumeId] = set()
        self._found: set[VolumeId] = set()
        """Found frozen by somebody else, and not thawed since."""
        self.hear_thaw: Callable[[VolumeId], None] = lambda _: None
        workers.on_release(self._hear_release)

    @contextmanager
    def holding(self, volume: VolumeId) -> Iterator[None]:
        """Know that the agent itself keeps the volume's filesystem frozen within."""
        self._held.add(volume)
        try:
            yield
        finally:
            self._held.discard(volume)

    def is_frozen(self, volume: VolumeId) -> bool:
        """Tell whether somebody else froze the volume's filesystem, as far as that was found."""
        if volume in self._held or not self._workers.is_held_by_freeze(_name_subject(volume)):
            return False
        self._found.add(volume)
        return True

    async def is_stuck(self, volume: VolumeId, patience_s: float) -> bool:
        """Tell whether a worker that was to write to the volume hangs in the kernel, and for no freeze."""
        subject = _name_subject(volume)
        is_stuck = await self._workers.is_stuck(subject, patience_s)
        return is_stuck and not self._workers.is_held_by_freeze(subject)

    async def refuse_frozen(self, volume: VolumeId, path: str, device_number: DeviceNumber) -> None:
        """Raise FrozenError where somebody froze what is mounted there, before a step that it would stop.

        NotAnsweringError where that may be so. What is slow, or takes no writes at all, the step finds out.
        """
        try:
            with suppress(OSError, NotMountedError):
                await self._workers.call(
                    begin_write,
                    path,
                    device_number,
                    timeout_s=BEGIN_TIMEOUT_S,
                    subject=_name_subject(volume),
                )
        except FrozenError as error:
            self._found.add(volume)
            raise explain_frozen(volume, path) from error
        except NotAnsweringError as error:
            if error.may_be_frozen:
                raise

    def is_held(self, volume: VolumeId) -> bool:
        """Tell whether the agent itself keeps the volume's filesystem frozen."""
        return volume in self._held

    async def try_writing(
        self, volume: VolumeId, path: str, number: DeviceNumber, mount_id: int, timeout_s: float
    ) -> int | None:
        """Return the errno of making a nameless file in a mount, or raise FrozenError.

        Raises NotAnsweringError where that is not answered, and for another reason than a freeze.
        """
        return await self._workers.call(
            probe_write, path, number, mount_id, timeout_s=timeout_s, subject=_name_subject(volume)
        )

    def _hear_release(self, subject: str) -> None:
        volume = VolumeId(subject.removeprefix(_PREFIX))
        if volume in self._found and subject == _name_subject(volume):
            self._found.discard(volume)
            self.hear_thaw(volume)


def find_touched_mount(action: Action, observed: Observed) -> Mount | None:
    """Return the mount that a step writes to, or takes from under whoever is to thaw it."""
    if isinstance(action, Unmount):
        return None if action.is_stale else action.mount
    path = None
    if isinstance(action, (GrowFilesystem, Remount, SetRootOwnership)):
        path = action.path
    elif isinstance(action, MoveMount):
        path = action.from_path
    return next((mount for mount in observed.mounts if mount.path == path), None)


def explain_frozen(volume: VolumeId, path: str | None) -> FrozenError:
    """Return what it means for a step that somebody froze the filesystem at ``path``."""
    return FrozenError(tell_frozen(volume, path), hint=hint_at_thaw(path), reason=Reason.FROZEN)


def _name_subject(volume: VolumeId) -> str:
    return f"{_PREFIX}{volume}"
