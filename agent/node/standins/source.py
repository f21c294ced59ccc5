"""Files that stand in for volumes: a directory of ``vol-….img`` files is this node's set of attached volumes.

Adding a file attaches it, growing it expands it, removing it detaches it. The rest of the agent sees block
devices and a function that identifies them, as with real ones. Touches no loop device whose file is not, or
was not, in the directory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
from anyio.abc import TaskStatus

from agent.base.log import get_logger
from agent.core.errors import InvalidValueError, NotAnsweringError, ShortageError
from agent.core.model import DeviceNumber, Identity
from agent.node.device.source import Hint, explain_unlisted
from agent.node.isolate.workers import Workers
from agent.node.standins import files, loop_device
from agent.node.standins.files import Synced

_POLL_S = 0.2
_REST_POLL_S = 2.0
_REST_AFTER_S = 30.0
"""Files that have not changed for so long are looked at less often."""
_FULL_SYNC_S = 30.0
"""After so long without a change the loop devices are compared all the same: others may detach them."""
_TIMEOUT_S = 20.0

log = get_logger(__name__)


def check_directory(directory: Path) -> None:
    """Raise AgentError, as for wrong usage, where there is no directory of stand-in volumes to be read."""
    try:
        files.list_states(str(directory))
    except OSError as error:
        raise InvalidValueError(
            f"The stand-in volumes in {directory} cannot be read: {error.strerror}.",
            hint="--devices names a directory with files called vol-….img; it may be empty.",
        ) from error


class LoopbackSource:
    """Stand-in volumes of one directory."""

    def __init__(self, directory: Path, workers: Workers) -> None:
        self._directory = directory.resolve()
        self._workers = workers
        self._subject = f"the stand-in volumes in {self._directory}"
        self._problem: str | None = None
        self.identify: Callable[[int], Identity] = partial(files.identify_loop, str(self._directory))
        """The function that tells which file a loop device, open at a descriptor, stands on."""

    @property
    def is_present(self) -> Callable[[DeviceNumber], bool]:
        """The function that tells whether a loop device is there and has its file still."""
        return files.has_file

    def list_paths(self) -> list[str]:
        """Return the loop devices of the directory's files."""
        try:
            self._directory.stat()  # without it no file is anywhere, and yet none was removed
            loops = loop_device.list_loops()
        except OSError as error:
            raise explain_unlisted(f"The volumes in {self._directory}", error) from error
        return [item.path for item in loops if files.is_below(item, self._directory, deleted=False)]

    async def watch(
        self, seen: Callable[[Hint], None], *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Keep the loop devices what the files are, and report what changed, until cancelled."""
        known = self._list_files()
        await self._sync()
        task_status.started()
        changed_at = synced_at = anyio.current_time()
        while True:
            is_at_rest = anyio.current_time() > changed_at + _REST_AFTER_S
            await anyio.sleep(_REST_POLL_S if is_at_rest else _POLL_S)
            try:
                now = self._list_files()
                if now == known and anyio.current_time() < synced_at + _FULL_SYNC_S:
                    continue
                changes, problems = await self._sync()
            except (NotAnsweringError, ShortageError) as error:
                log.warning("devices.late", why=error.message)
                continue
            except OSError as error:
                # Renamed, or not to be read for the moment: what was there is taken to be there.
                self._tell_problem(f"{error.strerror}: {error.filename or self._directory}")
                continue
            self._tell_problem("; ".join(problems) or None)
            for change in changes:
                seen(Hint(change.path, change.action))
            if now != known and not changes:
                # A file was given another volume's name: the device is the same, its identity is not.
                seen(Hint(None, "change"))
            synced_at = anyio.current_time()
            if now != known or changes:
                known, changed_at = now, synced_at

    def _tell_problem(self, why: str | None) -> None:
        """Say once what keeps the directory from being read."""
        if why is not None and why != self._problem:
            log.warning("devices.unreadable", directory=str(self._directory), why=why)
        self._problem = why

    def _list_files(self) -> tuple[files.FileState, ...]:
        # Here and not in a worker, at every poll: it is where the files lie that answers, no device.
        return files.list_states(str(self._directory))

    async def _sync(self) -> Synced:
        return await self._workers.call(
            files.sync_directory, str(self._directory), timeout_s=_TIMEOUT_S, subject=self._subject
        )
