"""Asks the running agent over its control socket. Standard library only: commands must start fast.

Every failure to reach the agent is an AgentError with exit code 4 that names the socket and says what to do.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from typing_extensions import override

from agent.base.paths import choose_looking_path
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.core.reasons import Reason

ANSWER_TIMEOUT_S = 30.0
"""For answers at once. A plan looks at every device, each look being bounded by the agent itself."""

STREAM_TIMEOUT_S = 60.0
"""Between two lines of ``wait``; the agent sends one at least every ten seconds."""

ORDER_TIMEOUT_S = 300.0
"""Between two lines of an order's progress: one at least every ten seconds, but of an agent that is older."""


class NoAnswerError(AgentError):
    """Nobody answers at the control socket."""


def connect_to_agent(path: Path, timeout_s: float | None) -> socket.socket:
    """Return a connection to the control socket, or to the one beside it for those who may only look.

    Raises OSError.
    """
    try:
        return _connect(path, timeout_s)
    except PermissionError:
        looking = choose_looking_path(path)
        if not looking.exists():
            raise
        return _connect(looking, timeout_s)


def _connect(path: Path, timeout_s: float | None) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return sock


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("agent", timeout=timeout_s)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = connect_to_agent(self._path, self.timeout)


class Client:
    """The running agent, as far as its control socket goes."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def status(self) -> dict[str, Any]:
        return self._ask("GET", "/v1/status")

    def volume_status(self, volume: str) -> dict[str, Any]:
        return self._ask("GET", f"/v1/status/{quote(volume, safe='')}")

    def plan(self) -> dict[str, Any]:
        return self._ask("GET", "/v1/plan")

    def explain(self, volume: str) -> dict[str, Any]:
        return self._ask("GET", f"/v1/explain/{quote(volume, safe='')}")

    def reconcile(self, volume: str | None = None) -> dict[str, Any]:
        return self._ask("POST", "/v1/reconcile" + (f"?{urlencode({'volume': volume})}" if volume else ""))

    def reload(self) -> dict[str, Any]:
        return self._ask("POST", "/v1/reload")

    def examine(self) -> dict[str, Any]:
        """Have the agent examine how it reaches AWS; takes as long as AWS does."""
        return self._ask("POST", "/v1/examine", ORDER_TIMEOUT_S)

    def events(self, *, follow: bool = False) -> Iterator[dict[str, Any]]:
        """Yield the events kept, oldest first, and with ``follow`` every new one without end."""
        timeout_s = None if follow else ANSWER_TIMEOUT_S
        return self._stream("GET", "/v1/events" + ("?follow=1" if follow else ""), timeout_s)

    def wait(self, names: list[str], timeout_s: float) -> Iterator[dict[str, Any]]:
        """Yield how far the volumes are, now and at each change, until they are ready or time is up."""
        query = urlencode({"names": ",".join(names), "timeout": f"{timeout_s:.3f}"})
        return self._stream("POST", f"/v1/wait?{query}", STREAM_TIMEOUT_S)

    def order(self, order: str, words: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the progress of something asked of the cloud, until it is done or has failed."""
        return self._stream("POST", f"/v1/cloud/{order}", ORDER_TIMEOUT_S, json.dumps(words).encode())

    def release_all(self) -> Iterator[dict[str, Any]]:
        """Yield the progress of releasing every volume, and then what became of each."""
        return self._stream("POST", "/v1/release", ORDER_TIMEOUT_S, json.dumps({"all": True}).encode())

    def _ask(self, method: str, target: str, timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
        connection = _UnixConnection(self._path, timeout_s)
        try:
            response = self._send(connection, method, target)
            answer: dict[str, Any] = json.loads(response.read())
        except (OSError, HTTPException, ValueError) as error:
            raise self._no_answer(error) from error
        finally:
            connection.close()
        return answer

    def _stream(
        self, method: str, target: str, timeout_s: float | None, body: bytes | None = None
    ) -> Iterator[dict[str, Any]]:
        connection = _UnixConnection(self._path, timeout_s)
        try:
            response = self._send(connection, method, target, body)
            while line := response.readline():
                yield json.loads(line)
        except (OSError, HTTPException, ValueError) as error:
            raise self._no_answer(error) from error
        finally:
            connection.close()

    def _send(
        self, connection: HTTPConnection, method: str, target: str, body: bytes | None = None
    ) -> HTTPResponse:
        connection.request(method, target, body)
        response = connection.getresponse()
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _read_error(response)
        return response

    def _no_answer(self, error: Exception) -> NoAnswerError:
        if isinstance(error, PermissionError):
            return NoAnswerError(
                f"You may not talk to the agent at {self._path}.",
                hint="Run the command as root or as a member of the group ebs-agent.",
                exit_code=ExitCode.NO_ANSWER,
            )
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            return NoAnswerError(
                f"No agent answers at {self._path}.",
                hint="Start it with: systemctl start ebs-agent. Why it stopped: journalctl -u ebs-agent.",
                exit_code=ExitCode.NO_ANSWER,
            )
        return NoAnswerError(
            f"The agent at {self._path} broke off or did not answer ({type(error).__name__}: {error}).",
            hint="See what it is doing with: journalctl -u ebs-agent -n 50.",
            exit_code=ExitCode.NO_ANSWER,
        )


def _read_error(response: HTTPResponse) -> AgentError:
    try:
        return read_error(json.loads(response.read()))
    except (ValueError, KeyError, TypeError):
        return AgentError(
            f"The agent answered {response.status} {response.reason}.",
            hint="Is the command of the same version as the agent?",
        )


def read_error(answer: dict[str, Any]) -> AgentError:
    """Make the agent's own error again from an answer; ValueError, KeyError or TypeError if it is none."""
    exit_code = ExitCode(answer["exit_code"])
    reason = Reason(answer["reason"]) if answer.get("reason") else None
    kind = RefusedError if exit_code is ExitCode.REFUSED else AgentError
    return kind(answer["error"], answer.get("hint"), reason, exit_code=exit_code)
