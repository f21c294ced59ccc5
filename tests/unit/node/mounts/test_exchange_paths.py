"""Which mounts have to change places at once for one to get to its path."""

from __future__ import annotations

import pytest

from agent.core.model import DeviceNumber, MountRecord, VolumeId
from agent.node.mounts.exchange_paths import find_ring

IDS = {name: VolumeId(f"vol-{number:08x}") for number, name in enumerate("abcd")}


def ring_of(volume: str, places: dict[str, tuple[str, str | None]]) -> list[tuple[str, str]]:
    """Return the ring of a volume, as (path, new path); ``places`` say where each is and is wanted."""
    notes = {
        IDS[name]: MountRecord(IDS[name], path, DeviceNumber(7, number), "boot")
        for number, (name, (path, _)) in enumerate(places.items())
    }
    wanted = {IDS[name]: path for name, (_, path) in places.items()}
    return [(one.path, one.to_path) for one in find_ring(IDS[volume], notes, wanted.get)]


@pytest.mark.parametrize(
    ("places", "ring"),
    [
        ({"a": ("/a", "/b"), "b": ("/b", "/a")}, [("/a", "/b"), ("/b", "/a")]),
        (
            {"a": ("/a", "/b"), "b": ("/b", "/c"), "c": ("/c", "/a"), "d": ("/d", "/e")},
            [("/a", "/b"), ("/b", "/c"), ("/c", "/a")],
        ),
        ({"a": ("/a", "/b"), "b": ("/b", "/c"), "c": ("/c", "/d")}, []),
        ({"a": ("/a", "/b"), "b": ("/b", "/b")}, []),
        ({"a": ("/a", "/b"), "b": ("/b", None)}, []),
        ({"a": ("/a", "/b"), "b": ("/b", "/c"), "c": ("/c", "/b")}, []),
        ({"a": ("/a", "/a")}, []),
        ({"a": ("/a", None), "b": ("/b", "/a")}, []),
        ({"b": ("/b", "/a")}, []),
    ],
    ids=[
        "two",
        "three",
        "chain",
        "one stays",
        "one is not wanted",
        "leads into a ring of others",
        "stays itself",
        "not wanted itself",
        "not mounted",
    ],
)
def test_ring(places: dict[str, tuple[str, str | None]], ring: list[tuple[str, str]]) -> None:
    """A ring is what comes back to where it began: all else goes one after the other, or waits."""
    assert ring_of("a", places) == ring
