"""What is remembered of claims' volumes outlasts the process, and never stands in its way."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from agent.cloud.identity.whoami import CloudIdentity
from agent.cloud.is_wanted import is_wanted
from agent.cloud.state.made_volumes import Making, Makings
from agent.cloud.state.state_file import FileStore
from agent.core.model import VolumeId
from agent.core.replace import replace
from agent.policy import Policy

VOLUME = VolumeId("vol-0123456789abcdef0")
SEEN = Making(2, VOLUME, is_seen=True, lost=(VolumeId("vol-0000000000000000a"),), on_delete="delete")
KEY = "abcde01234yz/compute-1/ckpt"


async def test_memory_outlasts_the_process(tmp_path: Path) -> None:
    """The next process knows the volumes, what was lost, and what is to be deleted; not what time it was."""
    path = tmp_path / "state" / "claims.json"
    makings = Makings(FileStore(path))
    await makings.put(KEY, replace(SEEN, unseen_since_s=1.0, asked_at_s=2.0))
    found = Makings(FileStore(path))
    assert found.get(KEY) == SEEN
    assert found.list_volumes() == {VOLUME}
    assert found.is_any_to_go
    await found.drop(VOLUME)
    assert not Makings(FileStore(path)).is_any_to_go


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"claims": 1}', b'{"claims": {"a": {}}}', b'{"claims": {"a": {"lost": 1}}}'],
)
async def test_unreadable_memory_is_as_if_there_were_none(tmp_path: Path, content: bytes) -> None:
    """A file that is damaged is told in the log, and written anew."""
    path = tmp_path / "claims.json"
    path.write_bytes(content)
    with capture_logs() as logs:
        makings = Makings(FileStore(path))
    assert [line["event"] for line in logs] == ["claims.unreadable"]
    assert makings.get(KEY) == Making()
    await makings.put(KEY, SEEN)
    assert Makings(FileStore(path)).get(KEY) == SEEN


async def test_memory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """A full or read-only disk costs the memory, not the volume."""
    path = tmp_path / "file" / "claims.json"
    path.parent.write_text("in the way")
    makings = Makings(FileStoreOnFile(path))
    with capture_logs() as logs:
        await makings.put(KEY, SEEN)
    assert [line["event"] for line in logs] == ["claims.unwritten"]
    assert makings.get(KEY) == SEEN


class FileStoreOnFile(FileStore):
    """A store whose directory is a file, read as if nothing were there."""

    def read(self) -> None:
        return None


@pytest.mark.parametrize("is_any_to_go", [False, True])
def test_last_claims_removal_counts(*, is_any_to_go: bool) -> None:
    """A policy without volumes still has AWS asked, as long as volumes of former claims are to be deleted."""
    identity = CloudIdentity(instance_id="i-0123456789abcdef0")
    policy = Policy(version=1, classes={})
    assert is_wanted(policy, identity, has_standins=False, is_any_to_go=is_any_to_go) is is_any_to_go
