"""How a face's process begins and ends, whichever face it is: seen from inside."""

from __future__ import annotations

import socket
import sys
from collections.abc import Awaitable, Callable

import anyio

import agent
from agent.base.arrival import arrive
from agent.base.error_barrier import find_cause
from agent.core.errors import AgentError
from agent.report.feed.frames import FeedError
from agent.report.logs import configure_logs


def be_face(run: Callable[[socket.socket, int | None], Awaitable[None]]) -> None:
    """Run a face with the feed that is standard input; the argument is who to be, nothing: who this is.

    What was meant ends it with a sentence, all else with its traceback.
    """
    arrive()
    configure_logs()
    feed, uid = socket.socket(fileno=0), int(sys.argv[1]) if sys.argv[1] else None
    try:
        anyio.run(run, feed, uid)
    except Exception as error:
        if isinstance(cause := find_cause(error), AgentError):
            sys.exit(cause.message)
        raise


def check_version(version: str) -> None:
    """Raise FeedError where the agent that tells is of another version: its frames may be others."""
    if version != agent.__version__:
        raise FeedError(f"The agent is version {version}, and this is {agent.__version__}.")
