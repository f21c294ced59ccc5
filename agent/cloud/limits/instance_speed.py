"""Finds the volumes that are paid to be faster than the instance they are attached to can be. Pure.

A smaller instance is fast in bursts only, so there are two limits: what it can never do, and what it cannot
do all day. What a gp3 volume is given for nothing is nobody's to lower, so it is never told of. AWS tells a
volume's throughput in MiB/s and an instance's in MB/s, 5 % less; what differs by no more is not worth a
notice, so the numbers are compared as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Struct

from agent.cloud.aws.instance_types import InstanceLimits
from agent.core.model import Provisioned, Reason
from agent.core.steps import Wait

PAID_TYPES = frozenset({"gp3", "io1", "io2"})
"""Whose numbers are chosen, and paid for."""
_HINT = (
    "The instance type limits what its volumes do together: lower the iops or throughput of the class to "
    "save the cost, or use an instance type with more EBS bandwidth."
)


class _Measure(Struct, frozen=True):
    find: Callable[[Provisioned], int | None]
    find_limit: Callable[[InstanceLimits], int | None]
    find_baseline: Callable[[InstanceLimits], int | None]
    unpaid: int
    """What each gp3 volume has for nothing."""
    unit: str
    instance_unit: str

    def describe(self, limits: InstanceLimits) -> str:
        """Return the ability of the instance as part of a sentence."""
        most, always = self.find_limit(limits), self.find_baseline(limits)
        text = f"{limits.instance_type} does {most} {self.instance_unit} at most"
        if most and always and always < most:
            text += f", for half an hour a day, and {always} at all times"
        return text


_MEASURES = (
    _Measure(
        lambda given: given.iops,
        lambda limits: limits.iops,
        lambda limits: limits.baseline_iops,
        3000,
        "IOPS",
        "IOPS",
    ),
    _Measure(
        lambda given: given.throughput_mib_s,
        lambda limits: limits.throughput_mb_s,
        lambda limits: limits.baseline_throughput_mb_s,
        125,
        "MiB/s",
        "MB/s",
    ),
)


def find_too_fast(given: Mapping[str, Provisioned], limits: InstanceLimits) -> dict[str, Wait]:
    """Return, by name, what is to be said of volumes whose speed this instance can never use.

    ``given``: by name, what each volume here of a type in ``PAID_TYPES`` is given, or is to be. Where they
    are too fast together only, the fastest one is told of.
    """
    said: dict[str, list[str]] = {}
    for measure in _MEASURES:
        for name, sentence in _compare(given, limits, measure, measure.find_limit(limits)):
            said.setdefault(name, []).append(sentence)
    return {name: Wait(Reason.FASTER_THAN_INSTANCE, " ".join(told), _HINT) for name, told in said.items()}


def find_burst_only(given: Mapping[str, Provisioned], limits: InstanceLimits) -> tuple[str, ...]:
    """Return sentences about volumes whose speed this instance can use in bursts only: no defect of theirs.

    ``given`` as above.
    """
    return tuple(
        f"{name}: {sentence}"
        for measure in _MEASURES
        if not _compare(given, limits, measure, measure.find_limit(limits))
        for name, sentence in _compare(given, limits, measure, measure.find_baseline(limits))
    )


def _compare(
    given: Mapping[str, Provisioned], limits: InstanceLimits, measure: _Measure, limit: int | None
) -> list[tuple[str, str]]:
    """Return by name what is to be said of volumes that are given more than a limit of the instance's."""
    told = {name: measure.find(one) or 0 for name, one in given.items()}
    paid = {name: number for name, number in told.items() if number > measure.unpaid}
    if not limit or not paid:
        return []
    of_instance = measure.describe(limits)
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
