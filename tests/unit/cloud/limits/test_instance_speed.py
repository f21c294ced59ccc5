"""Volumes that are faster than their instance."""

from __future__ import annotations

import pytest

from agent.cloud.aws.instance_types import InstanceLimits
from agent.cloud.limits.instance_speed import find_burst_only, find_too_fast
from agent.core.model import Provisioned, Reason

LIMITS = InstanceLimits("m5.xlarge", iops=18750, throughput_mb_s=593)
UNPAID = Provisioned(3000, 125)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, set()),
        ({"a": Provisioned(18750, 593)}, set()),
        ({"a": Provisioned(18751, 593)}, {"a"}),
        ({"a": Provisioned(18750, 594)}, {"a"}),
        ({"a": Provisioned(20000, None), "b": Provisioned(20000, 125)}, {"a", "b"}),
        ({"a": Provisioned(10000, 125), "b": Provisioned(9000, 125)}, {"a"}),
        ({"b": Provisioned(10000, 125), "a": Provisioned(10000, 125)}, {"a"}),
        ({"a": Provisioned(3000, 500), "b": UNPAID}, {"a"}),
        (dict.fromkeys("abcdefgh", UNPAID), set()),
        ({**dict.fromkeys("abcdef", UNPAID), "z": Provisioned(4000, 125)}, {"z"}),
        ({"a": Provisioned(None, None)}, set()),
    ],
)
def test_who_is_told_of(given: dict[str, Provisioned], told: set[str]) -> None:
    """Each that is too fast alone; else the fastest paid one where all are together; what is free, never."""
    found = find_too_fast(given, LIMITS)
    assert found.keys() == told
    assert all(notice.reason is Reason.FASTER_THAN_INSTANCE for notice in found.values())


def test_both_numbers_are_one_notice() -> None:
    """Both are in one sentence each, with the instance's own number."""
    (notice,) = find_too_fast({"a": Provisioned(64000, 1000)}, LIMITS).values()
    assert "64000 IOPS, and m5.xlarge does 18750 IOPS at most." in notice.message
    assert "1000 MiB/s, and m5.xlarge does 593 MB/s at most." in notice.message
    assert "lower the iops or throughput" in str(notice.hint)


def test_what_is_not_known_limits_nothing() -> None:
    """An answer without numbers says nothing against any volume."""
    assert not find_too_fast({"a": Provisioned(256000, 4000)}, InstanceLimits("x.large"))


BURSTING = InstanceLimits(
    "m5.large", iops=18750, throughput_mb_s=593, baseline_iops=3600, baseline_throughput_mb_s=81
)
STEADY = InstanceLimits(
    "m5.8xlarge", iops=30000, throughput_mb_s=850, baseline_iops=30000, baseline_throughput_mb_s=850
)


def test_what_the_instance_does_at_all_times_is_told_beside_its_most() -> None:
    """Both numbers, where they are two."""
    (notice,) = find_too_fast({"a": Provisioned(64000, 125)}, BURSTING).values()
    assert (
        "m5.large does 18750 IOPS at most, for half an hour a day, and 3600 at all times." in notice.message
    )
    (notice,) = find_too_fast({"a": Provisioned(64000, 125)}, STEADY).values()
    assert "m5.8xlarge does 30000 IOPS at most." in notice.message


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, []),
        ({"a": UNPAID}, []),
        ({"a": Provisioned(3600, 125)}, []),
        ({"a": Provisioned(3601, 125)}, ["a: The volume is given 3601 IOPS"]),
        ({"a": Provisioned(18750, 125)}, ["a: The volume is given 18750 IOPS"]),
        ({"a": Provisioned(18751, 125)}, []),
        ({"a": Provisioned(18751, 126)}, ["a: The volume is given 126 MiB/s"]),
        (
            {"a": Provisioned(4000, 200), "b": UNPAID},
            ["a: The volume is given 4000 IOPS", "a: The volume is given 200 MiB/s"],
        ),
        (
            {"a": Provisioned(3500, None), "b": Provisioned(3000, None)},
            ["a: The node's volumes are given 6500 IOPS together"],
        ),
        (dict.fromkeys("abcdefgh", UNPAID), []),
    ],
)
def test_what_is_of_use_in_bursts_only_is_a_remark(given: dict[str, Provisioned], told: list[str]) -> None:
    """Not of what is a notice already, nor of what is free."""
    found = find_burst_only(given, BURSTING)
    assert [remark[: len(start)] for remark, start in zip(found, told, strict=True)] == told
    assert not find_burst_only(given, STEADY)
