"""The emulated AWS where a test steps in: before a call is done, or when it is and before its answer.

It notes what it refused, and when.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from moto.core.utils import utcnow
from typing_extensions import override

from tests.aws.cloud import Cloud
from tests.aws.errors import CallError
from tests.aws.server import AwsServer, Environ


@dataclass
class Interruption:
    """What happens once, around the next call of ``operation``; the caller hears nothing of that call."""

    operation: str
    is_after: bool
    strike: Callable[[], None]
    has_struck: bool = False


@dataclass(frozen=True)
class Refusal:
    """A call that AWS answered with an error."""

    operation: str
    code: str
    at: datetime
    """By the clock that dates attachments, too."""


class InterruptedAws(AwsServer):
    """An emulated AWS with at most one interruption to come."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.interruption: Interruption | None = None
        self.refusals: list[Refusal] = []

    @override
    def _serve(
        self, environ: Environ, operation: str, parameters: dict[str, Any]
    ) -> tuple[str, list[tuple[str, str]], bytes]:
        met = None if parameters.get("DryRun") == "true" else self._take(operation)
        if met is None:
            try:
                return super()._serve(environ, operation, parameters)
            except CallError as error:
                self.refusals.append(Refusal(operation, error.code, utcnow()))
                raise
        if met.is_after:
            super()._serve(environ, operation, parameters)
            self.cloud.note_change()
        met.strike()
        met.has_struck = True
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError(operation)

    def _take(self, operation: str) -> Interruption | None:
        with self._lock:
            met = self.interruption
            if met is None or met.operation != operation:
                return None
            self.interruption = None
            return met
