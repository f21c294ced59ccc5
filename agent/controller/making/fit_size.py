"""Chooses how large a volume is: a whole number of GiB that its range, type and source allow. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from agent.controller.calls import GIB, SizeError, SizeRange

DEFAULT_GIB = 100
"""Where a claim says no size, as AWS's driver has it."""

SIZE_LIMITS_GIB: Mapping[str, tuple[int, int]] = {
    "gp2": (1, 16_384),
    "gp3": (1, 65_536),
    "io1": (4, 16_384),
    "io2": (4, 65_536),
    "st1": (125, 16_384),
    "sc1": (125, 16_384),
    "standard": (1, 1024),
}
"""EC2's, by type. Source: the EBS user guide, "Amazon EBS volume types"."""


def fit_size(size: SizeRange, kind: str, source_gib: int | None = None, what: str = "The volume") -> int:
    """Return the size in GiB; raises SizeError where there is none.

    ``source_gib``: of what the volume is made from, which it is never smaller than.
    """
    least, most = SIZE_LIMITS_GIB.get(kind, (1, 65_536))
    if size.required_bytes is None:
        chosen = max(DEFAULT_GIB, least) if source_gib is None else source_gib
        if size.limit_bytes is not None and source_gib is None:
            chosen = min(chosen, size.limit_bytes // GIB)
    else:
        chosen = max(-(-size.required_bytes // GIB), 1)
    chosen = max(chosen, source_gib or 0)
    check_limit(chosen, size, what)
    if not least <= chosen <= most:
        raise SizeError(
            f"{what} cannot have {chosen} GiB: of type {kind} there are {least} to {most} GiB.",
            hint="Ask for another size, or use a class of another type.",
        )
    return chosen


def check_limit(chosen_gib: int, size: SizeRange, what: str) -> None:
    """Raise SizeError where a size is above what may be."""
    if chosen_gib < 1 or (size.limit_bytes is not None and chosen_gib * GIB > size.limit_bytes):
        raise SizeError(
            f"{what} has to have {max(chosen_gib, 1)} GiB at least, which is above the limit of "
            f"{size.limit_bytes} bytes.",
            hint="Volumes have whole GiB, and are never smaller than what they are made from.",
        )
