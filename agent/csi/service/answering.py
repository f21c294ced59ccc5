"""Answers one call: reads its request, waits for what is answered, and turns what was raised into a code.

The barrier of the Kubernetes face: whatever goes wrong in a call ends here, as an answer to that call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import anyio
from google.protobuf.message import DecodeError, Message
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.server import Stream

from agent.base.error_barrier import Barrier
from agent.base.log import get_logger
from agent.core.errors import AgentError, InvalidValueError
from agent.csi.service.codes import find_code

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

log = get_logger(__name__)


class CountCall(Protocol):
    """Counts one call by its name and the code it was answered with."""

    def __call__(self, method: str, code: str, duration_s: float) -> None: ...


def count_nothing(method: str, code: str, duration_s: float) -> None:
    """For whoever does not count."""


class Answering:
    """Answers calls, each counted, and logged where it was about a volume or went wrong."""

    def __init__(self, count: CountCall = count_nothing) -> None:
        self._count = count
        self._barrier = Barrier()
        self._under_way: set[anyio.CancelScope] = set()
        self._is_ending = False
        self._all_answered = anyio.Event()

    @property
    def under_way(self) -> int:
        """How many calls are not answered yet."""
        return len(self._under_way)

    async def end(self) -> None:
        """Refuse what is asked from now on, and return once all is answered that was asked before."""
        self._is_ending = True
        if self._under_way:
            await self._all_answered.wait()

    def give_up(self) -> None:
        """Answer all that is under way so that it is asked for again."""
        for scope in self._under_way:
            scope.cancel()

    async def answer(
        self,
        stream: Stream[Request, Response],
        method: str,
        respond: Callable[[Request], Awaitable[Response]],
        choose_code: Callable[[AgentError], Status] = find_code,
        *,
        is_deed: bool = False,
    ) -> None:
        """Answer the call that ``stream`` is with what ``respond`` returns, or with the code of its error.

        ``is_deed``: it changes something, which is logged.
        """
        if self._is_ending:
            raise GRPCError(Status.UNAVAILABLE, f"{method} came while the agent ends: ask again.")
        with anyio.CancelScope() as scope:
            self._under_way.add(scope)
            try:
                response = await self._find_answer(stream, method, respond, choose_code, is_deed=is_deed)
                await stream.send_message(response)
            finally:
                self._leave(scope)
        if scope.cancelled_caught:
            raise GRPCError(Status.UNAVAILABLE, f"The agent ended before {method} was done: ask again.")

    def _leave(self, scope: anyio.CancelScope) -> None:
        self._under_way.remove(scope)
        if self._is_ending and not self._under_way:
            self._all_answered.set()

    async def _find_answer(
        self,
        stream: Stream[Request, Response],
        method: str,
        respond: Callable[[Request], Awaitable[Response]],
        choose_code: Callable[[AgentError], Status],
        *,
        is_deed: bool,
    ) -> Response:
        began = anyio.current_time()
        code = Status.CANCELLED  # if nothing below is reached: who asked hung up
        volume = ""
        try:
            request = await _read(stream, method)
            volume = getattr(request, "volume_id", "") or getattr(request, "name", "")
            response = await respond(request)
            code = Status.OK
        except GRPCError as error:
            code = error.status
            raise
        except Exception as error:
            failure = self._barrier.explain(error, f"answer {method}", volume=volume)
            code = choose_code(failure)
            log.warning(
                "csi.failed",
                call=method,
                volume=volume,
                code=code.name,
                error=failure.message,
                hint=failure.hint,
            )
            raise GRPCError(code, str(failure)) from error
        finally:
            self._count(method, code.name, anyio.current_time() - began)
        if is_deed:
            log.info("csi.answered", call=method, volume=volume)
        return response


async def _read(stream: Stream[Request, Response], method: str) -> Request:
    try:
        request = await stream.recv_message()
    except DecodeError as error:
        raise InvalidValueError(f"What was sent is no request of {method}: {error}.") from error
    if request is None:
        raise InvalidValueError(f"{method} was called without a request.")
    return request
