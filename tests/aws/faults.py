"""What goes wrong with AWS, on demand: throttling, failures, refusals, silence, and answers that get lost."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from enum import Enum


class Kind(Enum):
    """How a call goes wrong."""

    ERROR = "error"
    """AWS answers with ``code`` and does nothing."""
    SILENCE = "silence"
    """AWS does nothing and closes the connection after ``delay_s``."""
    LOST_ANSWER = "lost answer"
    """AWS does what it was asked, and the connection closes before the answer."""


@dataclass
class Fault:
    """Something that goes wrong with the next ``times`` calls of ``operation``."""

    operation: str
    kind: Kind = Kind.ERROR
    code: str = "InternalError"
    message: str = "An internal error has occurred"
    status: int = 500
    times: int = 1
    delay_s: float = 0.0

    @property
    def is_denial(self) -> bool:
        return self.code in {"UnauthorizedOperation", "AccessDeniedException"}


def throttle(operation: str, times: int = 1) -> Fault:
    return Fault(
        operation, code="RequestLimitExceeded", message="Request limit exceeded.", status=503, times=times
    )


def deny(operation: str, action: str, times: int = 1_000_000) -> Fault:
    """Deny as EC2 and SageMaker do, in the sentence that names the role and the action."""
    role = "arn:aws:sts::111122223333:assumed-role/hyperpod-execution/i-0123456789abcdef0"
    because = "because no identity-based policy allows the action"
    is_ec2 = action.startswith("ec2:") and not operation.endswith("ClusterNodeVolume")
    message = f"User: {role} is not authorized to perform: {action} on resource: * {because}"
    if is_ec2:
        message = (
            f"You are not authorized to perform this operation. {message}. "
            "Encoded authorization failure message: gibberish"
        )
    code = "UnauthorizedOperation" if is_ec2 else "AccessDeniedException"
    return Fault(operation, code=code, message=message, status=403 if is_ec2 else 400, times=times)


@dataclass
class Faults:
    """The faults still to come."""

    pending: list[Fault] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> None:
        with self.lock:
            self.pending.append(fault)

    def clear(self) -> None:
        with self.lock:
            self.pending.clear()

    def take(self, operation: str, *, is_dry_run: bool = False) -> Fault | None:
        """Return the fault this call meets, if any, and use it up; a dry run is denied, and no more."""
        with self.lock:
            for fault in self.pending:
                is_met = fault.is_denial or not is_dry_run
                if fault.operation in {operation, "*"} and fault.times > 0 and is_met:
                    fault.times -= 1
                    return fault
        return None


@dataclass
class TokenBucket:
    """EC2's way of limiting calls: a bucket of ``capacity`` calls, refilled at ``per_s``.

    Source: the EC2 API reference, "Request throttling": 100 and 20/s for calls that only describe with
    filters, 50 and 5/s for those that change (2026).
    """

    capacity: float
    per_s: float
    tokens: float = -1.0
    filled_at_s: float = 0.0

    def take(self, now_s: float | None = None) -> bool:
        """Take one token at the time given (default: now); False when there is none."""
        now_s = time.monotonic() if now_s is None else now_s
        if self.tokens < 0:
            self.tokens = self.capacity
        else:
            refilled = self.tokens + max(0.0, now_s - self.filled_at_s) * self.per_s
            self.tokens = min(self.capacity, refilled)
        self.filled_at_s = now_s
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
