"""Has identical requests wait for one piece of work, which goes on when nobody waits any longer.

kubelet asks again whenever an answer is late, or after it was started anew, and so do the sidecars. What was
asked for is under way then, and must neither be begun twice nor be cut short because who asked first hung up.
The work can tell whether anybody waits: what others may have been asked to undo meanwhile is not to be begun
where nobody does. What several pieces of work have done together is waited for while any of them is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TypeVar, cast

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct, field
from typing_extensions import Self

from agent.csi.service.codes import StillWorkingError

LIMIT_S = 100.0
"""kubelet waits two minutes (``csiTimeout``), and learns nothing from a call that it gave up itself."""

T = TypeVar("T")


class _Work(Struct, eq=False):
    """What is done once for all who ask."""

    is_done: anyio.Event = field(default_factory=anyio.Event)
    waiting: int = 0
    """How many wait for it now."""
    result: Any = None
    error: Exception | None = None

    @property
    def is_waited_for(self) -> bool:
        return self.waiting > 0


class Together:
    """What is done once for several pieces of work, which each ``join`` it and wait for it."""

    def __init__(self) -> None:
        self._works: list[_Work | Together | None] = []

    @property
    def is_waited_for(self) -> bool:
        """Somebody waits for one of the works; so it is where one who joined is part of none."""
        return any(one is None or one.is_waited_for for one in self._works)

    def join(self) -> None:
        """Have it be waited for by the work that this is part of, too."""
        work = _work.get()
        if work not in self._works:
            self._works.append(work)

    async def do(self, begin: Callable[[], Awaitable[T]]) -> T:
        """Return what ``begin`` returns, which is part of this; to be run as a task of its own."""
        _work.set(self)
        return await begin()


_work: ContextVar[_Work | Together | None] = ContextVar("_work", default=None)
"""What the running task is part of; tasks that it begins are part of the same, but for ``Together``'s."""


def is_waited_for() -> bool:
    """Return whether somebody waits for the work that this is part of; so it is for what is part of none."""
    work = _work.get()
    return work is None or work.is_waited_for


class Joining:
    """Work under way, by what was asked for. A context manager: what is not done at its end is left."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s
        self._under_way: dict[Hashable, _Work] = {}
        self._tasks: TaskGroup

    @property
    def is_busy(self) -> bool:
        """Any work is under way."""
        return bool(self._under_way)

    async def __aenter__(self) -> Self:
        self._tasks = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._tasks.cancel_scope.cancel()
        return await self._tasks.__aexit__(kind, error, trace)

    async def join(
        self, key: Hashable, begin: Callable[[], Awaitable[T]], explain_delay: Callable[[], str]
    ) -> T:
        """Return what ``begin`` returns or raise what it raises, begun only where no work of this key is.

        Raises StillWorkingError, whose sentence ``explain_delay`` gives, where it takes too long.
        """
        work = self._under_way.get(key)
        if work is None:
            work = self._under_way[key] = _Work()
            self._tasks.start_soon(self._do, key, work, begin)
        work.waiting += 1
        try:
            with anyio.move_on_after(self._limit_s):
                await work.is_done.wait()
        finally:
            work.waiting -= 1
        if not work.is_done.is_set():
            raise StillWorkingError(explain_delay(), hint="Whoever asks for it again joins in.")
        if work.error is not None:
            raise work.error
        return cast("T", work.result)

    async def _do(self, key: Hashable, work: _Work, begin: Callable[[], Awaitable[Any]]) -> None:
        _work.set(work)
        try:
            work.result = await begin()
        except Exception as error:  # noqa: BLE001 -- whoever waits for it raises it, at a barrier of its own
            work.error = error
        finally:
            del self._under_way[key]
            work.is_done.set()
