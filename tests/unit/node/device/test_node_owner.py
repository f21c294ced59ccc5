from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.core.errors import VanishedError
from agent.core.model import DeviceNumber
from agent.node.device.node_owner import read_node_owner, set_node_owner

NUMBER = DeviceNumber(259, 3)


def test_node_of_another_device_is_not_owned(tmp_path: Path) -> None:
    """Ownership is given to the node of the device that was looked at, never to what took its path."""
    impostor = tmp_path / "nvme1n1"
    impostor.write_text("")
    mode = impostor.stat().st_mode
    with pytest.raises(VanishedError):
        set_node_owner(str(impostor), NUMBER, os.geteuid(), None, 0o666)
    with pytest.raises(VanishedError):
        set_node_owner(str(tmp_path / "none"), NUMBER, None, None, 0o666)
    assert impostor.stat().st_mode == mode


def test_node_behind_a_link_is_not_owned(tmp_path: Path) -> None:
    """A link in a node's place is not followed."""
    link = tmp_path / "nvme1n1"
    link.symlink_to("/dev/null")
    with pytest.raises(VanishedError):
        read_node_owner(str(link), DeviceNumber(1, 3))
