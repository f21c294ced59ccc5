"""Kubernetes' quantities (``resource.Quantity``): 100Gi, 1.5T, 1e9, and 1395864371200m for 1.3Gi."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from agent.core.errors import AgentError

_FACTORS = {
    **{letter + "i": 1 << 10 * power for power, letter in enumerate("KMGTPE", 1)},
    **{letter: 1000**power for power, letter in enumerate("kMGTPE", 1)},
    **{letter: Decimal(1000) ** -power for power, letter in enumerate("mun", 1)},
}


def count_bytes(text: str) -> Decimal:
    """Return how many bytes it says; AgentError where it is none."""
    suffix = next((each for each in (text[-2:], text[-1:]) if each in _FACTORS), "")
    try:
        return Decimal(text.removesuffix(suffix)) * Decimal(_FACTORS.get(suffix, 1))
    except InvalidOperation as error:
        raise AgentError(f"{text!r} is no size that Kubernetes knows.", retryable=False) from error
