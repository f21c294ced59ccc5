"""Finds the volumes that are paid to be faster than the instance they are attached to can be. Pure.

What a gp3 volume is given for nothing is nobody's to lower, so it is never told of. AWS tells a volume's
throughput in MiB/s and an instance's in MB/s, 5 % less; what differs by no more is not worth a notice, so the
numbers are compared as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.cloud.aws.instance_type_models import InstanceLimits
from agent.core.model import Provisioned, Reason
from agent.core.steps import Wait

PAID_TYPES = frozenset({"gp3", "io1", "io2"})
"""Whose numbers are chosen, and paid for."""
_HINT = (
    "The instance type limits what its volumes do together: lower the iops or throughput of the class to "
    "save the cost, or use an instance type with more EBS bandwidth."
)


@dataclass(frozen=True)
class _Measure:
    find: Callable[[Provisioned], int | None]
    find_limit: Callable[[InstanceLimits], int | None]
    unpaid: int
    """What each gp3 volume has for nothing."""
    unit: str
    instance_unit: str


_MEASURES = (
    _Measure(lambda given: given.iops, lambda limits: limits.iops, 3000, "IOPS", "IOPS"),
    _Measure(
        lambda given: given.throughput_mib_s, lambda limits: limits.throughput_mb_s, 125, "MiB/s", "MB/s"
    ),
)


def find_too_fast(given: Mapping[str, Provisioned], limits: InstanceLimits) -> dict[str, Wait]:
    """Return, by entry name, what is to be said of volumes that are here.

    ``given``: by entry name, what each volume of a type in ``PAID_TYPES`` is given, or is to be. Where they
    are too fast together only, the fastest one is told of.
    """
    said: dict[str, list[str]] = {}
    for measure in _MEASURES:
        for name, sentence in _compare(given, limits, measure):
            said.setdefault(name, []).append(sentence)
    return {name: Wait(Reason.FASTER_THAN_INSTANCE, " ".join(told), _HINT) for name, told in said.items()}


def _compare(
    given: Mapping[str, Provisioned], limits: InstanceLimits, measure: _Measure
) -> list[tuple[str, str]]:
    limit = measure.find_limit(limits)
    told = {name: measure.find(one) or 0 for name, one in given.items()}
    paid = {name: number for name, number in told.items() if number > measure.unpaid}
    if not limit or not paid:
        return []
    of_instance = f"{limits.instance_type} does {limit} {measure.instance_unit} at most"
    alone = [
        (name, f"The volume is given {number} {measure.unit}, and {of_instance}.")
        for name, number in sorted(paid.items())
        if number > limit
    ]
    whole = sum(told.values())
    if alone or whole <= limit:
        return alone
    fastest = min(paid, key=lambda name: (-paid[name], name))
    return [(fastest, f"The node's volumes are given {whole} {measure.unit} together, and {of_instance}.")]
