"""``ebs-agent withdraw``: kubelet lets go of the driver, and of no volume that a pod has."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.base.paths import Paths
from agent.cli.client import Client
from agent.cli.withdraw import withdraw_driver
from agent.core.errors import ExitCode, RefusedError
from agent.core.replace import replace
from agent.csi.policy_volumes.record import PublishedRecord
from agent.csi.policy_volumes.record import parse_record as parse_published
from agent.csi.sockets.bind import bind_socket
from agent.csi.sockets.kubelet_root import Places
from agent.csi.volumes.staged_record import DIRECTORY, StagedRecord, parse_record
from agent.node.state.record_files import Shelf
from agent.node.state.volume_records import read_boot_id, read_machine_id
from tests.unit.csi.volumes.test_staged_records import RECORD, VOLUME

DRIVER = "ebs.csi.aws.com"


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Give a directory whose name leaves room for a socket's, which has 107 bytes at the most."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    """Give the places of a driver below kubelet's root, and a policy that names both."""
    paths = Paths(tmp_path)
    paths.policy.parent.mkdir(parents=True)
    csi = f"{{driver: {DRIVER}, kubelet_root: {tmp_path / 'k'}}}"
    paths.policy.write_text(f"version: 1\nagent: {{csi: {csi}}}\nvolumes: []\n")
    return Places(str(tmp_path / "k"), DRIVER)


def withdraw(
    tmp_path: Path, *, is_check: bool = False, is_forced: bool = False
) -> tuple[list[str], list[str]]:
    """Order it where no agent runs."""
    paths = Paths(tmp_path)
    return withdraw_driver(paths, Client(paths.socket), is_check=is_check, is_forced=is_forced)


def note(tmp_path: Path, boot_id: str) -> Path:
    """Note that kubelet has a volume staged, and return where."""
    shelf = Shelf(Paths(tmp_path).state / DIRECTORY, "staged", StagedRecord, parse_record, read_machine_id())
    shelf.write(replace(RECORD, boot_id=boot_id))
    return shelf.path_of(VOLUME)


def test_sockets_of_an_agent_that_is_dead_are_removed(tmp_path: Path, places: Places) -> None:
    """Kubelet is told first; what is not there any more is no error, and no directory stays."""
    for path in (places.registration, places.endpoint):
        bind_socket(path).close()
    assert withdraw(tmp_path) == ([str(places.registration), str(places.endpoint)], [])
    assert not places.endpoint.parent.exists()
    assert withdraw(tmp_path) == ([], [])


def test_sockets_of_another_plugin_stay(tmp_path: Path, places: Places) -> None:
    """AWS's node pod may have taken over already."""
    with bind_socket(places.registration), bind_socket(places.endpoint):
        removed, left = withdraw(tmp_path)
        assert removed == []
        assert len(left) == 2
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(places.endpoint))


def test_it_is_refused_while_pods_have_volumes(tmp_path: Path, places: Places) -> None:
    """Of this boot; a note that cannot be trusted may be of one. Nothing is removed."""
    bind_socket(places.registration).close()
    note(tmp_path, "another boot")
    assert withdraw(tmp_path, is_check=True) == ([], [])
    path = note(tmp_path, read_boot_id())
    for is_check in (True, False):
        with pytest.raises(RefusedError, match=VOLUME) as caught:
            withdraw(tmp_path, is_check=is_check)
        assert caught.value.exit_code is ExitCode.REFUSED
    policy_volume = Shelf(
        Paths(tmp_path).state / "published", "published", PublishedRecord, parse_published, read_machine_id()
    )
    policy_volume.write(PublishedRecord(VOLUME, read_boot_id()))
    path.unlink()
    with pytest.raises(RefusedError, match=VOLUME):
        withdraw(tmp_path)
    policy_volume.remove(VOLUME)
    path.write_text("{}")
    with pytest.raises(RefusedError, match=VOLUME):
        withdraw(tmp_path)
    assert places.registration.is_socket()
    assert withdraw(tmp_path, is_forced=True) == ([str(places.registration)], [])
