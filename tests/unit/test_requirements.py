from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

import pytest

LOCKS = sorted(Path(__file__).parents[2].glob("requirements/*.txt"))


def read_pins(lock: Path) -> dict[str, str]:
    """Return each pinned distribution with its own lines, hashes included."""
    blocks = re.split(r"\n(?=\S)", lock.read_text("utf-8"))
    pins = (re.match(r"([a-z0-9.-]+)==", block) for block in blocks)
    return {pin[1]: pin.string for pin in pins if pin}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_locks_are_hashed_and_name_no_index(lock: Path) -> None:
    """Every pin carries hashes, and where packages come from is the machine's own business."""
    pins = read_pins(lock)
    assert len(pins) > 0
    assert [name for name, block in pins.items() if "--hash=sha256:" not in block] == []
    assert re.findall(r"://|--(?:extra-)?index-url|--find-links", lock.read_text("utf-8")) == []


def test_every_dependency_is_locked() -> None:
    """A dependency added to pyproject.toml is locked too: make lock was not forgotten."""
    wanted: dict[str, set[str]] = {"run": set(), "controller": set()}
    for line in requires("hyperpod-ebs-agent") or []:
        name = re.split(r"[^A-Za-z0-9._-]", line)[0].lower()
        wanted["controller" if "extra ==" in line else "run"].add(name)
    for lock in LOCKS:
        assert wanted.get(lock.stem, set()) - read_pins(lock).keys() == set()
    assert all(wanted.values())


def test_locks_agree() -> None:
    """What the agent runs with is what it is tested with."""
    by_name = {lock.stem: read_pins(lock) for lock in LOCKS}
    versions = {
        stem: {name: block.split(maxsplit=1)[0] for name, block in pins.items()}
        for stem, pins in by_name.items()
    }
    assert versions["run"].items() <= versions["controller"].items() <= versions["dev"].items()
    assert versions["build"].items() <= versions["dev"].items()
