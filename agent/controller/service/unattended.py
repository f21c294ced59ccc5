"""Has nothing begun that nobody waits for: another replica may have been asked for the contrary meanwhile.

A sidecar that loses its lease hangs up, and the other replica's takes over. What the first one asked for
may still wait here, for AWS or for its turn. Begun after the other replica has answered, it would attach a
volume of which Kubernetes knows nothing, or detach one that a pod has again. Looking and waiting take
nothing from anybody, so they go on; whoever still wants the deed asks again.

An attempt ends so at the first deed that comes due while nobody waits, and the sidecars wait for less than a
minute at a time and ask again after up to five. So what makes a deed due must not be known to the attempt
alone where that takes longer: since when an attachment is on its way ``Sights`` remembers, and which tokens
are used up ``Tokens`` does. All else that is waited for is described by AWS, or is over within an attempt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, TypeVar

import anyio

from agent.cloud.aws.call import Call, Change, Make, Within
from agent.core.errors import AgentError
from agent.core.reasons import Reason
from agent.csi.service.join import is_waited_for

T = TypeVar("T")


def begin_only_while_waited_for(make: Make, is_waited_for: Callable[[], bool] = is_waited_for) -> Make:
    """Return what makes the same calls, and those that change something only while somebody waits for them.

    It is asked before a call waits for its turn, and again when that has come, at each attempt.
    """

    def require_someone(call: Change[Any]) -> None:
        if not is_waited_for():
            raise AgentError(
                f"Nobody waits any longer for what AWS was to do: {call.describe() or call.operation}.",
                hint="It is not begun. Whoever still wants it asks again.",
                reason=Reason.WAITING_FOR_CLOUD,
            )

    async def ask(call: Call[T], /, *, within: Within = nullcontext) -> T:
        if not isinstance(call, Change):
            return await make(call, within=within)
        change = call

        @asynccontextmanager
        async def enter() -> AsyncIterator[None]:
            require_someone(change)
            async with within():
                yield

        require_someone(change)
        return await make(call, within=enter)

    return ask


def queue_before_turn(make: Make, at_once: int) -> Make:
    """Return what makes the same calls, and no more at once than AWS's worker has threads for, of all kinds.

    What the worker has no thread for would wait in there, its turn taken, while questions are not answered.
    """
    threads = anyio.CapacityLimiter(at_once)

    async def ask(call: Call[T], /, *, within: Within = nullcontext) -> T:
        @asynccontextmanager
        async def enter() -> AsyncIterator[None]:
            async with threads, within():
                yield

        return await make(call, within=enter)

    return ask
