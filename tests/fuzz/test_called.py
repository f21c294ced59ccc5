"""What is called over kubelet's sockets: bytes that are no request, and requests for what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message
from hypothesis import strategies as st

from agent.core.model import FsType
from agent.csi.calls import StageCall
from agent.csi.service.parse_context import parse_context
from agent.csi.service.parse_paths import KubeletPaths
from agent.csi.service.parse_requests import (
    parse_expand,
    parse_measure,
    parse_publish,
    parse_stage,
    parse_unpublish,
    parse_unstage,
)
from agent.csi.wire import csi_pb2 as wire
from agent.node.filesystem.mkfs import build_mkfs_argv
from agent.policy.values.mkfs_options import find_refused_options
from tests.fuzz.conftest import Fuzz, check_answer
from tests.fuzz.mutation import mutate_bytes
from tests.unit.csi.service.requests import (
    BLOCK_STAGING,
    PATHS,
    ROOT,
    STAGING,
    TARGET,
    VOLUME,
    block,
    mount,
    stage,
)

_CONTEXT = {
    "blocksize": "4096",
    "inodeSize": "512",
    "ext4bigalloc": "true",
    "ext4clustersize": "16384",
    "partition": "1",
    "ebs-agent/source": "snap-0123456789abcdef0",
    "ebs-agent/format": "never",
    "team": "a",
}

_Parse = Callable[[Any, KubeletPaths], object]
_CALLS: dict[str, tuple[type[Message], _Parse, list[Message]]] = {
    "stage": (
        wire.NodeStageVolumeRequest,
        parse_stage,
        [
            stage(context=_CONTEXT),
            stage(mount("xfs", "noatime", "nouuid"), {"ebs-agent/legacy-xfs": "true"}),
            stage(block("MULTI_NODE_MULTI_WRITER"), path=BLOCK_STAGING),
        ],
    ),
    "unstage": (
        wire.NodeUnstageVolumeRequest,
        parse_unstage,
        [wire.NodeUnstageVolumeRequest(volume_id=VOLUME, staging_target_path=STAGING)],
    ),
    "publish": (
        wire.NodePublishVolumeRequest,
        parse_publish,
        [
            wire.NodePublishVolumeRequest(
                volume_id=VOLUME,
                staging_target_path=STAGING,
                target_path=TARGET,
                volume_capability=mount("ext4", "ro"),
                readonly=True,
            )
        ],
    ),
    "unpublish": (
        wire.NodeUnpublishVolumeRequest,
        parse_unpublish,
        [wire.NodeUnpublishVolumeRequest(volume_id=VOLUME, target_path=TARGET)],
    ),
    "expand": (
        wire.NodeExpandVolumeRequest,
        parse_expand,
        [
            wire.NodeExpandVolumeRequest(
                volume_id=VOLUME,
                volume_path=TARGET,
                capacity_range=wire.CapacityRange(required_bytes=1 << 30, limit_bytes=1 << 40),
            )
        ],
    ),
    "measure": (
        wire.NodeGetVolumeStatsRequest,
        parse_measure,
        [wire.NodeGetVolumeStatsRequest(volume_id=VOLUME, volume_path=TARGET)],
    ),
}


def _check_call(content: bytes, *, kind: type[Message], parse: _Parse) -> None:
    """As the service does: what is no message is said to be none, and a message is read or refused."""
    try:
        request = kind.FromString(content)
    except DecodeError:
        return
    asked = check_answer(partial(parse, request, PATHS))
    for path in _list_paths(asked):
        assert path.startswith(f"{ROOT}/")
        assert not {"", ".", ".."} & set(path.split("/")[1:])
    if isinstance(asked, StageCall) and not asked.capability.is_block:
        _check_options(asked.capability.fs_type, asked.mkfs_options)


def _list_paths(asked: object) -> list[str]:
    if isinstance(asked, tuple):
        return [str(asked[1])]
    names = ("staging_path", "target_path", "volume_path")
    return [path for name in names if isinstance(path := getattr(asked, name, None), str)]


def _check_options(fs_type: FsType, options: tuple[str, ...]) -> None:
    assert list(find_refused_options(fs_type, options)) == []
    argv = build_mkfs_argv(fs_type, "/dev/fd/9", uuid="u", options=options)
    assert argv[-1] == "/dev/fd/9"


@pytest.mark.parametrize("call", _CALLS)
def test_calls(fuzz: Fuzz, call: str) -> None:
    """Any bytes are a request or none, and a request is read or refused; no path leaves kubelet's."""
    kind, parse, requests = _CALLS[call]
    seeds = [request.SerializeToString() for request in requests]
    texts = mutate_bytes([path.encode() for path in (STAGING, TARGET, ROOT)]).map(
        partial(_put_text, requests[0])
    )
    fuzz(
        partial(_check_call, kind=kind, parse=parse),
        st.one_of(mutate_bytes(seeds), texts, st.binary(max_size=200)),
    )


def _put_text(request: Message, text: bytes) -> bytes:
    """Return a request all of whose texts are one: a path where an ID is to be, and the other way round."""
    written = text.decode("utf-8", "replace")
    fields = {
        key: written if isinstance(value, str) else value for key, value in MessageToDict(request).items()
    }
    try:
        return ParseDict(fields, type(request)()).SerializeToString()
    except ParseError:
        return text


_PAIRS = [f"{key}={value}".encode() for key, value in _CONTEXT.items()]


def _check_context(content: bytes) -> None:
    pairs = (line.partition("=") for line in content.decode("utf-8", "replace").split("\n"))
    context = {key: value for key, _, value in pairs}
    for fs_type in FsType:
        said = check_answer(partial(parse_context, context, fs_type))
        if said is not None:
            _check_options(fs_type, said.mkfs_options)


def test_context(fuzz: Fuzz) -> None:
    """Attributes of a volume are read, left or refused; what they make of mkfs's options is allowed."""
    fuzz(_check_context, mutate_bytes([*_PAIRS, b"\n".join(_PAIRS)]))
