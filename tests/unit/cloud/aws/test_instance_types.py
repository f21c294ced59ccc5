"""What is read of DescribeInstanceTypes' answers."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cloud.aws.instance_types import InstanceLimits, parse_instance_type


@pytest.mark.parametrize(
    ("ebs", "expected"),
    [
        ({}, InstanceLimits("a.b")),
        ({"MaximumEbsAttachments": 27, "AttachmentLimitType": "shared"}, InstanceLimits("a.b", 27)),
        (
            {"MaximumEbsAttachments": 64, "AttachmentLimitType": "dedicated"},
            InstanceLimits("a.b", 64, is_shared=False),
        ),
        (
            {"EbsOptimizedInfo": {"MaximumBandwidthInMbps": 4750, "MaximumIops": 18750}},
            InstanceLimits("a.b", iops=18750, throughput_mb_s=593),
        ),
        (
            {
                "EbsOptimizedInfo": {
                    "MaximumBandwidthInMbps": 4750,
                    "MaximumIops": 18750,
                    "BaselineBandwidthInMbps": 1150,
                    "BaselineIops": 6000,
                }
            },
            InstanceLimits(
                "a.b", iops=18750, throughput_mb_s=593, baseline_iops=6000, baseline_throughput_mb_s=143
            ),
        ),
        (
            {"EbsCards": [{"BaselineBandwidthInMbps": 40000, "BaselineIops": 200000}] * 2},
            InstanceLimits("a.b", baseline_iops=400000, baseline_throughput_mb_s=10000),
        ),
        (
            {
                "EbsOptimizedInfo": {"MaximumBandwidthInMbps": 80000, "MaximumIops": 400000},
                "EbsCards": [{"MaximumBandwidthInMbps": 80000, "MaximumIops": 400000}] * 2,
            },
            InstanceLimits("a.b", iops=800000, throughput_mb_s=20000),
        ),
    ],
)
def test_limits_are_read(ebs: dict[str, Any], expected: InstanceLimits) -> None:
    """What AWS does not say is not known; of the instance and its cards together the larger number counts."""
    assert parse_instance_type({"InstanceType": "a.b", "EbsInfo": ebs}) == expected


def test_disks_of_the_instance_store_are_counted() -> None:
    """Disks come in groups, each with its number."""
    store = {"Disks": [{"Count": 2}, {"Count": 1}]}
    told = {"InstanceType": "a.b", "EbsInfo": {}, "InstanceStorageInfo": store}
    assert parse_instance_type(told).store_disks == 3
