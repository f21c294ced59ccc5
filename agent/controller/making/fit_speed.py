"""Chooses how many IOPS a volume is given: as many as asked for, within what its type and size take. Pure.

Too many become as many as there can be, as AWS's driver has it; too few are refused unless the class lets
them be raised. Numbers for a type that has none to choose are passed over when a volume is made, since
StorageClasses with them work with that driver; a volume that is there cannot be changed so, with either.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from agent.controller.calls import Performance
from agent.core.errors import InvalidValueError
from agent.core.replace import replace


class _Iops(Struct, frozen=True):
    least: int
    most: int
    most_per_gib: int


_BY_TYPE: Mapping[str, _Iops] = {
    "gp3": _Iops(3000, 80_000, 500),
    "io1": _Iops(100, 64_000, 50),
    "io2": _Iops(100, 256_000, 1000),
}
"""Types whose IOPS can be chosen. Source: the EBS user guide, "Amazon EBS volume types"."""
_WITH_THROUGHPUT = "gp3"


def leave_out_fixed(asked: Performance, kind: str) -> Performance:
    """Return what is asked without the numbers that nobody chooses of a type."""
    if kind not in _BY_TYPE:
        asked = replace(asked, iops=None, iops_per_gib=None)
    return asked if kind == _WITH_THROUGHPUT else replace(asked, throughput_mib=None)


def fit_iops(asked: Performance, kind: str, size_gib: int, what: str = "The volume") -> int | None:
    """Return the IOPS to ask AWS for; None: as many as the type has. Raises InvalidValueError."""
    if asked.throughput_mib is not None and kind != _WITH_THROUGHPUT:
        raise InvalidValueError(
            f"{what} cannot have {asked.throughput_mib} MiB/s: the throughput of type {kind} is not chosen.",
            hint=f"Only {_WITH_THROUGHPUT} has one to choose; take it out of the class.",
        )
    wanted = asked.iops
    if wanted is None and asked.iops_per_gib is not None:
        wanted = asked.iops_per_gib * size_gib
    if wanted is None:
        return None
    limits = _BY_TYPE.get(kind)
    if limits is None:
        raise InvalidValueError(
            f"{what} cannot have {wanted} IOPS: those of type {kind} are not chosen.",
            hint=f"Only those of {', '.join(_BY_TYPE)} are; take them out of the class.",
        )
    if wanted < limits.least:
        if not asked.may_raise_iops:
            raise InvalidValueError(
                f"{what} cannot have {wanted} IOPS: of type {kind} there are {limits.least} at least.",
                hint="Ask for more, or set allowAutoIOPSPerGBIncrease in the class.",
            )
        wanted = limits.least
    by_size = max(limits.most_per_gib * size_gib, limits.least)
    return min(wanted, limits.most, by_size)
