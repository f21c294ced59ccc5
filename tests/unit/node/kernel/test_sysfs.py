"""What is gone is told from what could not be read: only the first means that there is no such device."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.model import DeviceNumber
from agent.node.kernel.sysfs import (
    find_name,
    list_names,
    locate,
    read_attribute,
    read_block_numbers,
    read_device_number,
    read_integer,
)

NUMBER = DeviceNumber(259, 3)
UNREADABLE = Path("/" + 300 * "x")
"""No name is that long, so that looking it up is an error other than its absence."""


def test_what_is_gone_is_none(tmp_path: Path) -> None:
    """A device without an attribute, and one without anything, are no errors."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "none", tmp_path / "file" / "below"):
        assert read_attribute(str(path)) is None
        assert read_integer(str(path)) is None
        assert read_device_number(str(path)) is None
        assert list_names(str(path)) == frozenset()
    assert find_name(NUMBER, tmp_path) is None


def test_what_cannot_be_looked_up_is_not_gone() -> None:
    """A device that only could not be asked about must never pass for one that was pulled."""
    for ask in (find_name, lambda number, sysfs: read_attribute(f"{locate(number, sysfs)}/dev")):
        with pytest.raises(OSError, match="too long"):
            ask(NUMBER, UNREADABLE)


def test_attributes_are_taken_as_they_are_meant(tmp_path: Path) -> None:
    """A newline at the end is not part of one; what is no number is none."""
    path = tmp_path / "attribute"
    for text, attribute, integer, number in (
        ("512\n", "512", 512, None),
        ("259:3\n", "259:3", None, NUMBER),
        (" /dev/a \n", " /dev/a ", None, None),
        ("-1\n", "-1", None, None),
        ("", "", None, None),
        (":\n", ":", None, None),
    ):
        path.write_text(text)
        found = (read_attribute(str(path)), read_integer(str(path)), read_device_number(str(path)))
        assert found == (attribute, integer, number), text


def test_name_is_where_the_link_leads(tmp_path: Path) -> None:
    """A device's directory bears the kernel's name for it."""
    (tmp_path / "dev/block").mkdir(parents=True)
    (tmp_path / "dev/block/259:3").symlink_to("../../devices/pci0000:00/nvme/nvme1/nvme1n1")
    assert find_name(NUMBER, tmp_path) == "nvme1n1"


def test_table_of_block_devices(tmp_path: Path) -> None:
    """Heading and lines of another shape are none; a slash in a name is sysfs's exclamation mark."""
    lines = ("major minor  #blocks  name", "", " 259  3  524288 nvme1n1", " 104  0  1 cciss/c0d0", " x 1 2 y")
    (tmp_path / "partitions").write_text("\n".join(lines))
    assert read_block_numbers(tmp_path) == {"nvme1n1": NUMBER, "cciss!c0d0": DeviceNumber(104, 0)}
