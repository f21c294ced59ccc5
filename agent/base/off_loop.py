"""How the daemon's parts ask what may wait for a disk: aside of the event loop, and not for ever.

What is asked runs in a worker (``Node.aside``), which a hung disk keeps and nobody waits for. A thread
would keep the whole process with it: one that hangs in the kernel cannot be ended, and holds on to every
descriptor and lock of the daemon's.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Protocol, TypeVar

from typing_extensions import TypeVarTuple, Unpack

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Aside(Protocol):
    """Runs ``function(*args)`` where it may block, and waits for its result as long as it may take.

    ``function`` is a module-level function of a module that imports little, its arguments and its result are
    plain values. ``subject`` is what the call is about: the path of a file. Raises what the function raised,
    and NotAnsweringError where it took too long, or an earlier call about the subject still hangs.
    """

    async def __call__(self, function: Callable[[Unpack[Ts]], T], *args: Unpack[Ts], subject: str) -> T: ...


class Confined(Protocol):
    """Has an answer made of a request by a process that can do next to nothing else, and is not trusted.

    ``function`` is called ``package.module:name``, and makes bytes of bytes. Raises NotAnsweringError where
    it took too long, AgentError where no answer came.
    """

    async def __call__(self, function: str, request: bytes, *, subject: str) -> bytes: ...


async def answer_here(function: str, request: bytes, *, subject: str) -> bytes:
    """Make the answer in place: for tests, and for a command."""
    del subject
    place, _, name = function.partition(":")
    answer: bytes = getattr(import_module(place), name)(request)
    return answer


async def do_here(function: Callable[[Unpack[Ts]], T], *args: Unpack[Ts], subject: str) -> T:
    """Run it in place: for a command, which has nothing else to do meanwhile."""
    del subject
    return function(*args)
