from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message

from agent.csi import wire
from agent.csi.wire import controller_pb2, csi_pb2, registration_pb2

STAGE = (
    b"\n\x05vol-1\x12\x18\n\ndevicePath\x12\n/dev/xvdaa\x1a\x02/s"
    b'"\x19\x12\x13\n\x03xfs\x12\x07noatime\x1a\x03100\x1a\x02\x08\x06'
    b"*\x06\n\x01a\x12\x01b2\x11\n\tblocksize\x12\x044096"
)
PUBLISH = (
    b'\n\x05vol-1\x12\x18\n\ndevicePath\x12\n/dev/xvdaa\x1a\x02/s"\x02/t'
    b"*\x06\n\x00\x1a\x02\x08\x070\x01:\x06\n\x01a\x12\x01bB\x06\n\x01x\x12\x01y"
)
EXPAND = (
    b'\n\x05vol-1\x12\x02/p\x1a\x04\x08\x01\x10\x02"\x02/s*\x06\x12\x00\x1a\x02\x08\x012\x06\n\x01a\x12\x01b'
)

# Written by code generated from the interface's own definition 1.12.0, with fields that ours leaves out.
REQUESTS: list[tuple[type[Message], bytes, dict[str, object]]] = [
    (
        csi_pb2.NodeStageVolumeRequest,
        STAGE,
        {
            "volumeId": "vol-1",
            "publishContext": {"devicePath": "/dev/xvdaa"},
            "stagingTargetPath": "/s",
            "volumeCapability": {
                "mount": {"fsType": "xfs", "mountFlags": ["noatime"]},
                "accessMode": {"mode": "SINGLE_NODE_SINGLE_WRITER"},
            },
            "volumeContext": {"blocksize": "4096"},
        },
    ),
    (
        csi_pb2.NodePublishVolumeRequest,
        PUBLISH,
        {
            "volumeId": "vol-1",
            "publishContext": {"devicePath": "/dev/xvdaa"},
            "stagingTargetPath": "/s",
            "targetPath": "/t",
            "volumeCapability": {"block": {}, "accessMode": {"mode": "SINGLE_NODE_MULTI_WRITER"}},
            "readonly": True,
            "volumeContext": {"x": "y"},
        },
    ),
    (
        csi_pb2.NodeExpandVolumeRequest,
        EXPAND,
        {
            "volumeId": "vol-1",
            "volumePath": "/p",
            "stagingTargetPath": "/s",
            "capacityRange": {"requiredBytes": "1", "limitBytes": "2"},
            "volumeCapability": {"mount": {}, "accessMode": {"mode": "SINGLE_NODE_WRITER"}},
        },
    ),
    (
        csi_pb2.NodeGetVolumeStatsRequest,
        b"\n\x05vol-1\x12\x02/p\x1a\x02/s",
        {"volumeId": "vol-1", "volumePath": "/p", "stagingTargetPath": "/s"},
    ),
    (
        csi_pb2.NodeUnstageVolumeRequest,
        b"\n\x05vol-1\x12\x02/s",
        {"volumeId": "vol-1", "stagingTargetPath": "/s"},
    ),
    (
        csi_pb2.NodeUnpublishVolumeRequest,
        b"\n\x05vol-1\x12\x02/t",
        {"volumeId": "vol-1", "targetPath": "/t"},
    ),
    (
        registration_pb2.RegistrationStatus,
        b"\x08\x01\x12\x01e",
        {"pluginRegistered": True, "error": "e"},
    ),
]

ANSWERS: list[tuple[Message, dict[str, object], bytes]] = [
    (
        csi_pb2.NodeGetVolumeStatsResponse(),
        {
            "usage": [
                {"available": "1", "total": "2", "used": "3", "unit": "BYTES"},
                {"available": "4", "total": "5", "used": "6", "unit": "INODES"},
            ]
        },
        b"\n\x08\x08\x01\x10\x02\x18\x03 \x01\n\x08\x08\x04\x10\x05\x18\x06 \x02",
    ),
    (
        csi_pb2.NodeGetInfoResponse(),
        {"nodeId": "i-1", "maxVolumesPerNode": "25", "accessibleTopology": {"segments": {"zone": "a"}}},
        b"\n\x03i-1\x10\x19\x1a\x0b\n\t\n\x04zone\x12\x01a",
    ),
    (
        csi_pb2.NodeGetCapabilitiesResponse(),
        {
            "capabilities": [
                {"rpc": {"type": "STAGE_UNSTAGE_VOLUME"}},
                {"rpc": {"type": "GET_VOLUME_STATS"}},
                {"rpc": {"type": "EXPAND_VOLUME"}},
                {"rpc": {"type": "SINGLE_NODE_MULTI_WRITER"}},
            ]
        },
        b"\n\x04\n\x02\x08\x01\n\x04\n\x02\x08\x02\n\x04\n\x02\x08\x03\n\x04\n\x02\x08\x05",
    ),
    (
        csi_pb2.GetPluginCapabilitiesResponse(),
        {
            "capabilities": [
                {"service": {"type": "VOLUME_ACCESSIBILITY_CONSTRAINTS"}},
                {"volumeExpansion": {"type": "ONLINE"}},
            ]
        },
        b"\n\x04\n\x02\x08\x02\n\x04\x12\x02\x08\x01",
    ),
    (csi_pb2.ProbeResponse(), {"ready": False}, b"\n\x00"),
    (csi_pb2.NodeExpandVolumeResponse(), {"capacityBytes": "7"}, b"\x08\x07"),
    (
        csi_pb2.GetPluginInfoResponse(),
        {"name": "n", "vendorVersion": "1", "manifest": {"k": "v"}},
        b"\n\x01n\x12\x011\x1a\x06\n\x01k\x12\x01v",
    ),
    (
        registration_pb2.PluginInfo(),
        {"type": "CSIPlugin", "name": "n", "endpoint": "/e", "supportedVersions": ["1.0.0"]},
        b"\n\tCSIPlugin\x12\x01n\x1a\x02/e\x22\x051.0.0",
    ),
]


@pytest.mark.parametrize(("kind", "sent", "read"), REQUESTS, ids=lambda value: getattr(value, "__name__", ""))
def test_requests_are_read_as_they_are_sent(
    kind: type[Message], sent: bytes, read: dict[str, object]
) -> None:
    """What callers of the interface's own release send is read in full, but for secrets and mount groups."""
    assert MessageToDict(kind.FromString(sent)) == read


@pytest.mark.parametrize(("answer", "said", "sent"), ANSWERS, ids=lambda value: type(value).__name__)
def test_answers_are_sent_as_they_are_read(answer: Message, said: dict[str, object], sent: bytes) -> None:
    """What the agent answers has the bytes that the interface's own code makes of it."""
    assert ParseDict(said, answer).SerializeToString(deterministic=True) == sent


def test_generated_code_is_of_what_is_written() -> None:
    """A message, field or call added to a .proto file was generated too: make proto was not forgotten."""
    folder = Path(wire.__file__).parent
    for generated in (controller_pb2, csi_pb2, registration_pb2):
        written = (folder / Path(generated.DESCRIPTOR.name).name).read_text("utf-8")
        services = generated.DESCRIPTOR.services_by_name.values()
        assert set(re.findall(r"^  rpc (\w+)", written, re.MULTILINE)) == {
            method.name for service in services for method in service.methods
        }
        assert set(re.findall(r"^message (\w+)", written, re.MULTILINE)) == set(
            generated.DESCRIPTOR.message_types_by_name
        )
        numbered = set(
            re.findall(r"^ +(?:\S+ |map<\S+ \S+ |repeated \S+ )?(\w+) = (\d+);", written, re.MULTILINE)
        )
        assert numbered == {
            (name, str(number))
            for message in generated.DESCRIPTOR.message_types_by_name.values()
            for name, number in _list_numbers(message)
        }


def _list_numbers(message: Descriptor) -> list[tuple[str, int]]:
    """Return the fields of a message and the values of enumerations, in it and below, with their numbers."""
    found = [(field.name, field.number) for field in message.fields]
    for enumeration in message.enum_types:
        found += [(value.name, value.number) for value in enumeration.values]
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            found += _list_numbers(nested)
    return found
