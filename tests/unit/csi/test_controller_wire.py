from __future__ import annotations

import subprocess
import sys

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from agent.csi.wire import controller_pb2 as wire

CREATE = (
    b"\n\x05pvc-1\x12\x04\x08\x01\x10\x02\x1a\x06\n\x00\x1a\x02\x08\x05"
    b'"\x0b\n\x04type\x12\x03io2*\x06\n\x01a\x12\x01b2\t\x12\x07\n\x05vol-2:\x14'
    b"\n\x08\n\x06\n\x01z\x12\x01a\x12\x08\n\x06\n\x01z\x12\x01bB\t\n\x04iops\x12\x013"
)
ATTACH = b"\n\x05vol-1\x12\x03i-1\x1a\x02\x12\x00 \x01*\x06\n\x01a\x12\x01b2\x06\n\x01x\x12\x01y"
VALIDATE = (
    b"\n\x05vol-1\x12\x06\n\x01x\x12\x01y\x1a\x02\x12\x00"
    b'"\x0b\n\x04type\x12\x03gp3*\x06\n\x01a\x12\x01b2\t\n\x04iops\x12\x013'
)

# Written by code generated from the interface's own definition 1.12.0, with secrets, which ours leaves out.
REQUESTS: list[tuple[type[Message], bytes, dict[str, object]]] = [
    (
        wire.CreateVolumeRequest,
        CREATE,
        {
            "name": "pvc-1",
            "capacityRange": {"requiredBytes": "1", "limitBytes": "2"},
            "volumeCapabilities": [{"block": {}, "accessMode": {"mode": "MULTI_NODE_MULTI_WRITER"}}],
            "parameters": {"type": "io2"},
            "volumeContentSource": {"volume": {"volumeId": "vol-2"}},
            "accessibilityRequirements": {
                "requisite": [{"segments": {"z": "a"}}],
                "preferred": [{"segments": {"z": "b"}}],
            },
            "mutableParameters": {"iops": "3"},
        },
    ),
    (
        wire.ControllerPublishVolumeRequest,
        ATTACH,
        {
            "volumeId": "vol-1",
            "nodeId": "i-1",
            "volumeCapability": {"mount": {}},
            "readonly": True,
            "volumeContext": {"x": "y"},
        },
    ),
    (
        wire.ControllerUnpublishVolumeRequest,
        b"\n\x05vol-1\x12\x03i-1\x1a\x06\n\x01a\x12\x01b",
        {"volumeId": "vol-1", "nodeId": "i-1"},
    ),
    (
        wire.ValidateVolumeCapabilitiesRequest,
        VALIDATE,
        {
            "volumeId": "vol-1",
            "volumeContext": {"x": "y"},
            "volumeCapabilities": [{"mount": {}}],
            "parameters": {"type": "gp3"},
            "mutableParameters": {"iops": "3"},
        },
    ),
    (
        wire.ControllerExpandVolumeRequest,
        b'\n\x05vol-1\x12\x02\x08\x01\x1a\x06\n\x01a\x12\x01b"\x02\n\x00',
        {"volumeId": "vol-1", "capacityRange": {"requiredBytes": "1"}, "volumeCapability": {"block": {}}},
    ),
    (
        wire.ControllerModifyVolumeRequest,
        b"\n\x05vol-1\x12\x06\n\x01a\x12\x01b\x1a\t\n\x04iops\x12\x013",
        {"volumeId": "vol-1", "mutableParameters": {"iops": "3"}},
    ),
    (
        wire.CreateSnapshotRequest,
        b'\n\x05vol-1\x12\x01s\x1a\x06\n\x01a\x12\x01b"\x06\n\x01x\x12\x01y',
        {"sourceVolumeId": "vol-1", "name": "s", "parameters": {"x": "y"}},
    ),
    (
        wire.ListSnapshotsRequest,
        b'\x08\x02\x12\x01t\x1a\x05vol-1"\x06snap-1*\x06\n\x01a\x12\x01b',
        {"maxEntries": 2, "startingToken": "t", "sourceVolumeId": "vol-1", "snapshotId": "snap-1"},
    ),
]

ANSWERS: list[tuple[Message, dict[str, object], bytes]] = [
    (
        wire.CreateVolumeResponse(),
        {
            "volume": {
                "capacityBytes": "1",
                "volumeId": "vol-1",
                "volumeContext": {"x": "y"},
                "contentSource": {"snapshot": {"snapshotId": "snap-1"}},
                "accessibleTopology": [{"segments": {"z": "a"}}],
            }
        },
        b"\n'\x08\x01\x12\x05vol-1\x1a\x06\n\x01x\x12\x01y\"\n\n\x08\n\x06snap-1*\x08\n\x06\n\x01z\x12\x01a",
    ),
    (
        wire.ControllerPublishVolumeResponse(),
        {"publishContext": {"devicePath": "/dev/x"}},
        b"\n\x14\n\ndevicePath\x12\x06/dev/x",
    ),
    (
        wire.ListVolumesResponse(),
        {
            "entries": [{"volume": {"volumeId": "vol-1"}, "status": {"publishedNodeIds": ["i-1"]}}],
            "nextToken": "t",
        },
        b"\n\x10\n\x07\x12\x05vol-1\x12\x05\n\x03i-1\x12\x01t",
    ),
    (
        wire.ControllerGetVolumeResponse(),
        {"volume": {"volumeId": "vol-1"}, "status": {"publishedNodeIds": ["i-1"]}},
        b"\n\x07\x12\x05vol-1\x12\x05\n\x03i-1",
    ),
    (
        wire.ListSnapshotsResponse(),
        {
            "entries": [
                {
                    "snapshot": {
                        "sizeBytes": "1",
                        "snapshotId": "snap-1",
                        "sourceVolumeId": "vol-1",
                        "creationTime": "1970-01-01T00:00:02Z",
                        "readyToUse": True,
                    }
                }
            ],
            "nextToken": "t",
        },
        b'\n\x19\n\x17\x08\x01\x12\x06snap-1\x1a\x05vol-1"\x02\x08\x02(\x01\x12\x01t',
    ),
    (
        wire.ControllerExpandVolumeResponse(),
        {"capacityBytes": "1", "nodeExpansionRequired": True},
        b"\x08\x01\x10\x01",
    ),
    (
        wire.ControllerGetCapabilitiesResponse(),
        {
            "capabilities": [
                {"rpc": {"type": "CREATE_DELETE_VOLUME"}},
                {"rpc": {"type": "GET_VOLUME"}},
                {"rpc": {"type": "MODIFY_VOLUME"}},
            ]
        },
        b"\n\x04\n\x02\x08\x01\n\x04\n\x02\x08\x0c\n\x04\n\x02\x08\x0e",
    ),
    (
        wire.ValidateVolumeCapabilitiesResponse(),
        {
            "confirmed": {
                "volumeContext": {"x": "y"},
                "parameters": {"a": "b"},
                "mutableParameters": {"iops": "3"},
            },
            "message": "m",
        },
        b'\n\x1b\n\x06\n\x01x\x12\x01y\x1a\x06\n\x01a\x12\x01b"\t\n\x04iops\x12\x013\x12\x01m',
    ),
]


@pytest.mark.parametrize(("kind", "sent", "read"), REQUESTS, ids=lambda value: getattr(value, "__name__", ""))
def test_requests_are_read_as_they_are_sent(
    kind: type[Message], sent: bytes, read: dict[str, object]
) -> None:
    """What callers of the interface's own release send is read in full, but for secrets."""
    assert MessageToDict(kind.FromString(sent)) == read


@pytest.mark.parametrize(("answer", "said", "sent"), ANSWERS, ids=lambda value: type(value).__name__)
def test_answers_are_sent_as_they_are_read(answer: Message, said: dict[str, object], sent: bytes) -> None:
    """What the controller answers has the bytes that the interface's own code makes of it."""
    assert ParseDict(said, answer).SerializeToString(deterministic=True) == sent


def test_a_node_does_not_carry_the_controllers_messages() -> None:
    """What serves kubelet imports nothing of the controller's: a node's memory is not its to take."""
    code = "import agent.csi.service.plugin, sys; print(*sys.modules)"
    found = subprocess.run(
        (sys.executable, "-c", code), capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert "agent.csi.wire.csi_pb2" in found
    assert not {name for name in found if "controller" in name and name.startswith("agent.")}
