"""Network interfaces are counted where they are whatever namespace has them: on the PCI bus."""

from __future__ import annotations

from pathlib import Path

from agent.cloud.limits.network_interfaces import count_interfaces


def test_functions_of_the_driver_are_counted(tmp_path: Path) -> None:
    """One in a pod's namespace has no name among the host's devices; the driver's attributes are none."""
    driver = tmp_path / "bus/pci/drivers/ena"
    driver.mkdir(parents=True)
    for name in ("bind", "module", "new_id", "remove_id", "uevent", "unbind"):
        (driver / name).touch()
    for address in ("0000:00:05.0", "0000:00:06.0", "10000:a1:00.0"):
        (driver / address).symlink_to(f"../../../../devices/{address}")
    (tmp_path / "class/net/eth0").mkdir(parents=True)
    assert count_interfaces(tmp_path) == 3


def test_machine_without_the_driver_has_none(tmp_path: Path) -> None:
    """It is no instance of Nitro's."""
    assert count_interfaces(tmp_path) == 0
