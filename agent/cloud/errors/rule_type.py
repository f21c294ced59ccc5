"""What one kind of AWS's errors means, as data."""

from __future__ import annotations

from msgspec import Struct

from agent.core.model import Reason


class Rule(Struct, frozen=True):
    """What one kind of error means. Sentence and hint are filled in by ``agent.cloud.errors.explain``."""

    reason: Reason
    sentence: str
    hint: str
    is_retryable: bool = True
    retry_after_s: float = 60.0
