"""Which volumes are here: asks every device who it is, and tells the loop which volumes to look at.

It never acts on a device and never decides what to do about a volume. Late, repeated and lost announcements
change nothing, because whatever comes in only says which device to ask again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus
from msgspec import Struct

from agent.base.error_barrier import supervise
from agent.base.log import get_logger
from agent.core.errors import InconclusiveError
from agent.core.model import Seen, VolumeId
from agent.loop.goals import Want
from agent.loop.known_devices import Census, Heard, News
from agent.loop.reconcile import Reconciler
from agent.loop.wake_causes import Cause
from agent.node.device.source import Hint
from agent.report.agent_counters import Counters

GATHER_S = 0.02
"""How long answers are gathered while other devices are still being asked: to work out what is wanted of
twenty volumes takes a while, and is worth doing once for all that were attached together."""

SILENCE_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Pauses before a device that did not answer is asked again; the last one goes on. While the question before
still hangs in the kernel, asking costs nothing."""

log = get_logger(__name__)


class Devices(Protocol):
    """What the survey needs of this machine's devices."""

    def list_paths(self) -> list[str]:
        """Return the device nodes there are now, or raise InconclusiveError."""

    async def ask(self, path: str) -> Seen:
        """Ask the device at ``path`` which volume it is. Never raises for what the device does."""

    def has_changed(self, seen: Seen) -> bool:
        """Tell whether what answered may be another disk by now, or of another size. Asks no device."""

    def place(self, paths: Mapping[VolumeId, tuple[str, ...]]) -> None:
        """Be told at which paths each volume was found; more than one is a volume seen twice."""

    def list_recorded(self) -> Iterable[VolumeId]:
        """Return the volumes that the agent has mounted and not unmounted, here or not."""


Assign = Callable[[Mapping[VolumeId, Seen], Iterable[VolumeId]], Mapping[VolumeId, Want]]
"""From the volumes found, and those to be followed though absent, to what is wanted of each."""


class _Asking(Struct):
    """One path being asked; ``is_stale`` says that it was hinted at meanwhile."""

    is_stale: bool = True


class Surveyor:
    """Keeps the list of volumes that are here, from hints and from full looks."""

    def __init__(
        self,
        devices: Devices,
        assign: Assign,
        reconciler: Reconciler,
        counters: Counters,
        silence_s: Sequence[float] = SILENCE_S,
    ) -> None:
        self.assign = assign
        self._silence_s = silence_s
        self._silent: set[str] = set()
        """Paths whose device did not answer when it was asked last."""
        self._pressed: set[str] = set()
        """Paths that are asked again and again until they answer: by one task each."""
        self._unlisted: str | None = None
        """Why the devices could not be listed last."""
        self._devices = devices
        self._reconciler = reconciler
        self._counters = counters
        self._census = Census()
        self._asking: dict[str, _Asking] = {}
        self._heard = Heard()
        """What answered since what is wanted was worked out last."""
        self._moved: set[str] = set()
        """Paths whose disk was said to come or go since it was asked last."""
        self._tasks: TaskGroup | None = None
        self._is_everything_stale = anyio.Event()
        self._has_answers = anyio.Event()
        self._nobody_is_asked = anyio.Event()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Answer hints until cancelled."""
        self._asking.clear()
        self._pressed.clear()
        async with anyio.create_task_group() as self._tasks:
            name = "work out what is wanted"
            self._tasks.start_soon(supervise, name, self._publish_answers, name=name)
            task_status.started()
            while True:
                await self._is_everything_stale.wait()
                self._is_everything_stale = anyio.Event()
                await self.look_everywhere()

    def hear(self, hint: Hint) -> None:
        """Take a hint; returns at once."""
        if hint.path is None:
            self._counters.count_overflow()
            self._is_everything_stale.set()
            return
        self._counters.count_uevent()
        if hint.action in {"add", "remove"}:
            self._moved.add(hint.path)
        # One that says "remove" may be late: the device is asked all the same.
        self._ask_soon(hint.path)

    async def look_everywhere(self) -> None:
        """Ask every device there is, all at once, and have every volume looked at."""
        heard = await self._ask_together(self._list_paths())
        self._wake(heard)
        self._reconciler.wake_all()

    async def find_unannounced(self) -> None:
        """Ask the devices that changed without a word, and those that have not said which volume they are.

        What is as it was when it answered is not asked again: whoever looks at its volume asks it anyway.
        """
        heard = await self._ask_together([path for path in self._list_paths() if self._is_due(path)])
        self._wake(heard)

    def doubt(self, path: str) -> None:
        """Have a device asked again that turned out not to be the volume it was taken for."""
        self._ask_soon(path)

    def refresh(self) -> None:
        """Work out again what is wanted of each volume: the policy, or what is known of them, has changed."""
        self._publish()

    def _ask_soon(self, path: str) -> None:
        asking = self._asking.get(path)
        if asking is not None:
            asking.is_stale = True
        elif self._tasks is not None:
            if not self._asking:
                self._nobody_is_asked = anyio.Event()
            self._asking[path] = _Asking()
            ask = partial(self._ask_until_fresh, path)
            self._tasks.start_soon(supervise, f"ask {path}", ask, name=f"ask {path}")

    def _press(self, path: str) -> None:
        if self._tasks is not None and path not in self._pressed:
            self._pressed.add(path)
            press = partial(self._ask_until_it_answers, path)
            self._tasks.start_soon(supervise, f"ask {path} again", press, name=f"ask {path} again")

    async def _ask_until_it_answers(self, path: str) -> None:
        """Ask a silent device again and again: when it finds its voice, nothing announces that."""
        for pause_s in chain(self._silence_s, repeat(self._silence_s[-1])):
            await anyio.sleep(pause_s)
            if path not in self._silent or path not in self._list_paths():
                break
            self._ask_soon(path)
        self._silent.discard(path)
        self._pressed.discard(path)

    async def _ask_until_fresh(self, path: str) -> None:
        self._asking[path].is_stale = True
        while self._asking[path].is_stale:
            self._asking[path].is_stale = False
            news = await self._ask(path)
            # Into what is gathered by now: what was when it was asked may be worked out already.
            self._heard.put(news)
        del self._asking[path]
        self._has_answers.set()
        if not self._asking:
            self._nobody_is_asked.set()

    def _list_paths(self) -> list[str]:
        """Return the paths of the devices there are now, and forget those that are gone.

        Where they cannot be listed, those that are known are taken to be there.
        """
        try:
            paths = self._devices.list_paths()
        except InconclusiveError as error:
            if self._unlisted != error.message:
                log.warning("devices.unlisted", why=error.message, hint=error.hint)
            self._unlisted = error.message
            return list(self._census.seen)
        self._unlisted = None
        for path in set(self._census.seen) - set(paths):
            self._note_gone(path)
        return paths

    def _is_due(self, path: str) -> bool:
        seen = self._census.seen.get(path)
        return seen is None or seen.identity is None or self._devices.has_changed(seen)

    async def _ask_together(self, paths: Iterable[str]) -> Heard:
        """Ask devices all at once, and return the volumes to look at.

        What is wanted is worked out once all have answered: an entry that several volumes match must not go
        to whichever answered first.
        """
        heard = Heard()

        async def put(path: str) -> None:
            heard.put(await self._ask(path))

        async with anyio.create_task_group() as tasks:
            for path in paths:
                tasks.start_soon(put, path)
        self._publish()
        return heard

    async def _publish_answers(self) -> None:
        """Work out what is wanted once for all devices that answer together, as if attached together."""
        while True:
            await self._has_answers.wait()
            with anyio.move_on_after(GATHER_S):
                await self._nobody_is_asked.wait()
            self._has_answers = anyio.Event()
            self._publish()
            heard, self._heard = self._heard, Heard()
            self._wake(heard)

    async def _ask(self, path: str) -> News | None:
        """Ask one device, and return whom its answer concerns, if anybody."""
        old = self._census.seen.get(path)
        has_moved = path in self._moved
        self._moved.discard(path)
        seen = await self._devices.ask(path)
        is_told_of = old is not None and (old.refusal == seen.refusal or (seen.is_silent and old.identity))
        if seen.refusal is not None and not is_told_of:
            log.info("device.ignored", device=path, why=seen.refusal)
        was_silent = path in self._silent
        if not seen.is_silent:
            self._silent.discard(path)
        else:
            self._silent.add(path)
            self._press(path)
        answer = self._census.put(seen)
        if answer is None:
            return None
        # Where appearances are not numbered, only what the kernel said tells one from the next.
        has_returned = has_moved and seen.diskseq is None
        has_answered = was_silent and not seen.is_silent
        is_news = answer.is_news or has_returned or has_answered
        return News(answer.volume_id, Cause.DEVICE if is_news else Cause.HINT, answer.is_new)

    def _wake(self, heard: Heard) -> None:
        for volume in heard.new:
            self._reconciler.announce(volume)
        for volume, cause in heard.causes.items():
            self._reconciler.wake(volume, cause)

    def _note_gone(self, path: str) -> None:
        volume = self._census.drop(path)
        if volume is not None:
            self._devices.place(self._list_paths_by_volume())
            self._reconciler.wake(volume, Cause.DEVICE)

    def _publish(self) -> None:
        self._devices.place(self._list_paths_by_volume())
        present = {volume: seen[0] for volume, seen in self._census.by_volume().items()}
        self._reconciler.set_wants(self.assign(present, self._devices.list_recorded()))

    def _list_paths_by_volume(self) -> dict[VolumeId, tuple[str, ...]]:
        by_volume = self._census.by_volume()
        return {volume: tuple(s.path for s in seen) for volume, seen in by_volume.items()}
