"""What the inputs of each target are made from: one right answer of each kind, as the real thing gives it."""

from __future__ import annotations

import json
from typing import Any

from tests.aws.answers import ANSWERS

VOLUME = "vol-0123456789abcdef0"

POLICIES = (
    b"version: 1\nvolumes: []\n",
    b"""version: 1
agent:
  http: {listen: "127.0.0.1:9842", tls: {cert: /a/cert.pem, key: /a/key.pem}}
  mqtt: {host: broker.example.com, port: 8883, tls: {}, username: a, password_file: /a/password, topic: ebs}
  cloud: {enabled: auto, attach_api: auto}
  allowed_roots: [/data, /mnt]
  resync: 60s
  health: {interval: 2s, write_probe: true}
classes:
  fast: {type: gp3, iops: 6000, throughput: 500, encrypted: true, tags: {team: a}}
volumes:
  - name: datasets
    match: {volume_id: vol-0123456789abcdef0}
    filesystem: {type: xfs, format: never}
    mount: {path: /data/datasets, options: [ro, noatime]}
  - name: checkpoints
    claim: {class: fast, size: 500GiB, per: node, on_delete: retain}
    filesystem: {type: ext4, format: if-blank, label: ckpt, mkfs_options: [-m0]}
    mount: {path: "/data/ckpt/{instance_name}/{tag:role}", owner: ubuntu, group: ubuntu, mode: "0770"}
    grow: true
    required: true
    tune: {read_ahead: 4MiB, scheduler: none}
    snapshots: {schedule: "0 */6 * * *", keep: 8, freeze: true}
  - name: rawdb
    match: {tags: {role: rawdb}, size: ">= 1TiB", type: gp3, device_name: /dev/sdf}
    block: {owner: db, group: disk, mode: "0660"}
""",
)

MOUNTINFO = (
    rb"""22 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw,discard,errors=remount-ro
31 22 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate
40 22 259:3 /@data /data/my\040data\0111 rw,noatime shared:30 master:2 - btrfs /dev/nvme1n1 rw,subvol=/@data
41 40 0:44 / /data/x rw - tmpfs  rw
42 22 0:45 /\134x//deleted /a rw propagate_from:3 unbindable - fuse.s3 s3\040bucket rw,user_id=0
""",
)

SFDISK = {
    "partitiontable": {
        "label": "gpt",
        "id": "681CD5E7-7A2B-4C4C-9AE7-3AA1B8B3B0A5",
        "device": "/proc/self/fd/7",
        "unit": "sectors",
        "firstlba": 34,
        "lastlba": 20971486,
        "sectorsize": 512,
        "partitions": [
            {
                "node": "/proc/self/fd/7p1",
                "start": 2048,
                "size": 409600,
                "type": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
                "uuid": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
                "name": "data",
            }
        ],
    }
}

FORMAT_NOTE = {
    "volume_id": VOLUME,
    "uuid": "0a1b2c3d-0a1b-2c3d-4e5f-0a1b2c3d4e5f",
    "type": "ext4",
    "size_bytes": 1 << 30,
    "stage": "intended",
    "recorded_at": "2026-01-01T00:00:00Z",
}
MOUNT_NOTE = {
    "volume_id": VOLUME,
    "path": "/data/a",
    "device_number": [259, 3],
    "boot_id": "5f0f6f0e-1c1f-4f5b-9d9a-0a1b2c3d4e5f",
    "diskseq": 7,
    "options": ["rw", "noatime"],
}
RAW_NOTE = {
    "volume_id": VOLUME,
    "boot_id": "5f0f6f0e-1c1f-4f5b-9d9a-0a1b2c3d4e5f",
    "diskseq": 7,
    "node_owner": {"uid": 0, "gid": 6, "mode": 0o660},
}

EVENTS: tuple[dict[str, Any], ...] = (
    {
        "event": "volume.attached",
        "at": "2026-01-01T00:00:00.000000Z",
        "number": 1,
        "volume_id": VOLUME,
        "device": "/dev/nvme1n1",
    },
    {"event": "policy.reloaded", "at": "2026-01-01T00:00:01Z", "number": 2},
    {
        "event": "volume.refused",
        "at": "2026-01-01T00:00:02Z",
        "number": 3,
        "volume_id": VOLUME,
        "reason": "NotBlank",
        "message": "It is not blank.",
        "hint": None,
    },
)

RESOURCE_CONFIG = {
    "ClusterConfig": {
        "ClusterArn": "arn:aws:sagemaker:us-west-2:111122223333:cluster/abcde01234yz",
        "ClusterName": "c",
    },
    "InstanceGroups": [
        {
            "Name": "compute",
            "InstanceType": "ml.p5.48xlarge",
            "Instances": [
                {
                    "InstanceName": "compute-1",
                    "AgentIpAddress": "10.0.0.2",
                    "CustomerIpAddress": "10.0.0.1",
                    "InstanceId": "i-0123456789abcdef0",
                }
            ],
        }
    ],
}
IDENTITY_DOCUMENT = {
    "accountId": "111122223333",
    "availabilityZone": "us-west-2a",
    "instanceId": "i-0123456789abcdef0",
    "region": "us-west-2",
    "privateIp": "10.0.0.1",
}

REPLIES: tuple[Any, ...] = (
    *({"id": 1, "answer": answer} for answer in ANSWERS.values()),
    {
        "id": 1,
        "failure": {
            "service": "ec2",
            "operation": "DescribeVolumes",
            "code": "UnauthorizedOperation",
            "message": "You are not authorized to perform: ec2:DescribeVolumes. wait at least 6 hours",
            "http_status": 403,
            "request_id": "a-b",
        },
    },
)

WORDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("attach", {"volume": VOLUME}),
    ("detach", {"volume": VOLUME, "force": True}),
    ("create", {"size": "10GiB", "type": "gp3", "iops": 3000, "throughput": 125, "name": "a"}),
    ("restore", {"snapshot": "snap-0123456789abcdef0", "size": "10GiB", "encrypted": True}),
    ("expand", {"volume": "checkpoints", "size": "10GiB"}),
    ("modify", {"volume": "checkpoints", "type": "io2", "iops": 5000}),
    ("snapshot", {"volume": VOLUME, "freeze": True, "wait": False}),
    ("snapshots", {"volume": VOLUME}),
    ("delete-snapshot", {"snapshot": "snap-0123456789abcdef0"}),
    ("orphans", {}),
    ("delete-orphan", {"volume": VOLUME}),
)

REQUESTS = (
    b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /v1/status/checkpoints HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /v1/explain/vol-0123456789abcdef0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /v1/plan HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"POST /v1/wait?names=checkpoints&timeout=0 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"POST /v1/reconcile?volume=checkpoints HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"POST /v1/reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    *(
        b"POST /v1/cloud/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
        % (order.encode(), len(json.dumps(words)), json.dumps(words).encode())
        for order, words in WORDS
    ),
    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: text/plain\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    b"GET /status.json HTTP/1.0\r\n\r\n",
)
