"""Requests about volumes of the policy: read as they are meant, refused by the field that is wrong."""

from __future__ import annotations

import pytest

from agent.core.errors import InvalidValueError
from agent.core.model import FsType
from agent.csi.policy_volumes.parse_requests import parse_entry, parse_publish
from agent.csi.wire import csi_pb2 as wire
from tests.unit.csi.service.requests import BLOCK_TARGET, PATHS, TARGET, block, mount, publish


def ask(
    capability: wire.VolumeCapability | None = None, context: dict[str, str] | None = None, **fields: str
) -> wire.NodePublishVolumeRequest:
    """Return a request for the entry cache, without a staging path as kubelet makes it."""
    said = capability or mount("", access="MULTI_NODE_MULTI_WRITER")
    request = publish(said, **{"volume": "cache", "staging": "", **fields})  # type: ignore[arg-type]
    request.volume_context.update(context or {})
    return request


def test_publish_is_read() -> None:
    """Many nodes may write, each to its own; what is said of reading, three ways, is one thing."""
    call = parse_publish(ask(context={"of": "others"}), PATHS)
    assert (call.entry, call.target_path, call.fs_type) == ("cache", TARGET, None)
    assert not call.is_read_only
    assert not call.is_block
    flagged = parse_publish(ask(mount("xfs", "ro", "noexec", "rw", "noexec")), PATHS)
    assert (flagged.is_read_only, flagged.flags, flagged.fs_type) == (True, ("noexec",), FsType.XFS)
    assert parse_publish(ask(mount("", access="MULTI_NODE_READER_ONLY")), PATHS).is_read_only
    assert parse_publish(ask(block("MULTI_NODE_MULTI_WRITER"), target=BLOCK_TARGET), PATHS).is_block


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (ask(volume=""), "volume_id"),
        (ask(volume="vol-0123456789abcdef0"), "volume's ID"),
        (ask(volume="../cache"), "name of an entry"),
        (ask(volume="a" * 64), "name of an entry"),
        (ask(volume="cache\n"), "name of an entry"),
        (ask(target="pods/a"), "target_path"),
        (ask(target="/etc/passwd"), "target_path"),
        (ask(target=TARGET.replace("pods", "pods/../..")), "target_path"),
        (ask(wire.VolumeCapability()), "access_mode"),
        (ask(mount("zfs")), "fs_type"),
        (ask(mount("", "data=writeback")), "mount_flags"),
        (ask(mount("", "context=system_u:object_r:x:s0")), "mount_flags"),
        (ask(mount("", "remount")), "mount_flags"),
        (ask(context={"ebs-agent/format": "never"}), "ebs-agent/format"),
        (ask(context={"EBS-Agent/source": "none"}), "EBS-Agent/source"),
    ],
)
def test_bad_publish_is_refused(request_: wire.NodePublishVolumeRequest, named: str) -> None:
    """What is missing, foreign, climbs or is not for a pod to choose is refused, and the field named."""
    with pytest.raises(InvalidValueError, match=named):
        parse_publish(request_, PATHS)


@pytest.mark.parametrize("name", ["cache", "a", "1.0_x-Y", "a" * 63])
def test_every_name_that_the_policy_takes_is_a_handle(name: str) -> None:
    """As many characters, and the same ones."""
    assert parse_entry(name) == name
