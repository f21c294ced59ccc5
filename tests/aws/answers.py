"""An answer to each call that says something, with every member the agent reads."""

from __future__ import annotations

from typing import Any

from agent.cloud.aws import calls, instance_types, making_calls, snapshot_models, volume_status, zones
from agent.cloud.aws.call import Call
from agent.core.model import VolumeId

VOLUME = VolumeId("vol-0123456789abcdef0")
NODE = {
    "InstanceId": "i-0123456789abcdef0",
    "InstanceGroupName": "compute",
    "InstanceStatus": {"Status": "Running"},
    "Placement": {"AvailabilityZone": "us-west-2a"},
}
DESCRIBED = {
    "VolumeId": VOLUME,
    "State": "in-use",
    "Size": 8,
    "VolumeType": "gp3",
    "AvailabilityZone": "us-west-2a",
    "Iops": 3000,
    "Throughput": 125,
    "Encrypted": True,
    "KmsKeyId": "arn:aws:kms:us-west-2:111122223333:key/k",
    "SnapshotId": "snap-0123456789abcdef0",
    "MultiAttachEnabled": False,
    "CreateTime": "2026-01-01T00:00:00+00:00",
    "Tags": [{"Key": "role", "Value": "db"}],
    "Attachments": [
        {
            "State": "attached",
            "InstanceId": "i-0123456789abcdef0",
            "Device": "/dev/sdf",
            "AttachTime": "2026-01-01T00:00:00+00:00",
            "AssociatedResource": "arn:aws:sagemaker:us-west-2:111122223333:cluster/a-i-0123456789abcdef0",
        }
    ],
}
CHECKED = {
    "VolumeId": VOLUME,
    "VolumeStatus": {
        "Status": "impaired",
        "Details": [
            {"Name": "io-enabled", "Status": "failed"},
            {"Name": "io-performance", "Status": "stalled"},
        ],
    },
    "InitializationStatusDetails": {
        "InitializationType": "provisioned-rate",
        "Progress": 42,
        "EstimatedTimeToCompleteInSeconds": 600,
    },
    "Events": [{"EventType": "potential-data-inconsistency", "Description": "the host failed"}],
}
MODIFICATION = {
    "VolumeId": VOLUME,
    "ModificationState": "optimizing",
    "Progress": 40,
    "TargetSize": 9,
    "TargetVolumeType": "gp3",
    "TargetIops": 3000,
    "TargetThroughput": 125,
    "StartTime": "2026-01-01T00:00:00+00:00",
    "StatusMessage": "so far",
}
INSTANCE_TYPE = {
    "InstanceType": "p5.48xlarge",
    "InstanceStorageInfo": {"Disks": [{"Count": 8}]},
    "EbsInfo": {
        "MaximumEbsAttachments": 64,
        "AttachmentLimitType": "dedicated",
        "EbsOptimizedInfo": {
            "MaximumBandwidthInMbps": 80000,
            "MaximumIops": 260000,
        },
        "EbsCards": [{"MaximumBandwidthInMbps": 80000, "MaximumIops": 260000}],
    },
}
SNAPSHOT = {
    "SnapshotId": "snap-0123456789abcdef0",
    "VolumeId": VOLUME,
    "State": "pending",
    "StartTime": "2026-01-01T00:00:00+00:00",
    "Progress": "40%",
    "VolumeSize": 8,
    "Tags": [{"Key": "role", "Value": "db"}],
}
FAST_RESTORES = {
    "Unsuccessful": [
        {
            "FastSnapshotRestoreStateErrors": [
                {
                    "AvailabilityZone": "us-west-2a",
                    "Error": {
                        "Code": "FastSnapshotRestoreLimitExceeded",
                        "Message": "as many as may be",
                    },
                }
            ],
        }
    ]
}
ANSWERS: dict[type[Call[Any]], dict[str, Any]] = {
    calls.DescribeVolumes: {"Volumes": [DESCRIBED]},
    volume_status.DescribeVolumeStatus: {"VolumeStatuses": [CHECKED]},
    instance_types.DescribeInstanceTypes: {"InstanceTypes": [INSTANCE_TYPE]},
    zones.DescribeAvailabilityZones: {
        "AvailabilityZones": [
            {"ZoneName": "us-west-2a", "ZoneId": "usw2-az2", "ZoneType": "availability-zone"},
            {"ZoneName": "us-west-2-lax-1a", "ZoneId": "usw2-lax1-az1", "ZoneType": "local-zone"},
        ]
    },
    calls.DescribeVolumesModifications: {"VolumesModifications": [MODIFICATION]},
    calls.DescribeSnapshots: {"Snapshots": [SNAPSHOT]},
    calls.DescribeInstances: {
        "Reservations": [{"Instances": [{"InstanceId": "i-0", "State": {"Name": "running"}}]}]
    },
    calls.DescribeClusterNode: {"NodeDetails": NODE},
    calls.ListClusterNodes: {"ClusterNodeSummaries": [NODE]},
    calls.GetCallerIdentity: {"Account": "111122223333", "Arn": "arn:aws:iam::111122223333:role/r"},
    calls.AttachVolume: {"State": "attaching"},
    calls.DetachVolume: {"State": "detaching"},
    calls.AttachClusterNodeVolume: {"Status": "attaching"},
    calls.DetachClusterNodeVolume: {"Status": "detaching"},
    making_calls.CreateVolume: DESCRIBED,
    making_calls.CopyVolumes: {"Volumes": [DESCRIBED]},
    calls.CreateSnapshot: SNAPSHOT,
    snapshot_models.DescribeLockedSnapshots: {
        "Snapshots": [
            {
                "SnapshotId": "snap-0123456789abcdef0",
                "LockState": "compliance-cooloff",
                "LockDuration": 7,
                "LockExpiresOn": "2026-01-08T00:00:00+00:00",
            }
        ]
    },
    calls.LockSnapshot: {"LockExpiresOn": "2026-01-08T00:00:00+00:00"},
    calls.EnableFastSnapshotRestores: FAST_RESTORES,
    calls.DisableFastSnapshotRestores: FAST_RESTORES,
    calls.ModifyVolume: {"VolumeModification": MODIFICATION},
}
