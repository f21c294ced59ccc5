from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import AgentError, RefusedError
from agent.node.device.partition_table import grow_partition, parse_table
from agent.node.isolate.programs import Completed

DEVICE = "/proc/self/fd/7"
MIB = 1 << 20


def describe(
    *partitions: tuple[int, int, int], label: str = "gpt", kind: str = "0FC6", sector: int = 512
) -> str:
    """Return a table as sfdisk writes it; partitions as (number, start, size) in sectors."""
    return json.dumps(
        {
            "partitiontable": {
                "label": label,
                "id": "681CD5E7",
                "device": DEVICE,
                "unit": "sectors",
                "sectorsize": sector,
                "partitions": [
                    {
                        "node": f"{DEVICE}p{number}",
                        "start": start,
                        "size": size,
                        "type": kind,
                        "uuid": f"U{number}",
                    }
                    for number, start, size in partitions
                ],
            }
        }
    )


@dataclass
class FakeSfdisk:
    """A disk's table as sfdisk sees it; ``tables`` are what it shows before and after a write."""

    tables: list[str]
    inputs: list[str] = field(default_factory=list)
    saved: Path | None = None

    async def __call__(
        self,
        argv: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        input: str | None = None,  # noqa: A002 (subprocess's own word)
        **_limits: object,
    ) -> Completed:
        assert argv[0] == "sfdisk"
        assert argv[-1] == DEVICE
        assert list(pass_fds) == [7]
        if "--json" in argv:
            return Completed(tuple(argv), 0, self.tables[0], "")
        if "--dump" in argv:
            return Completed(tuple(argv), 0, "label: gpt\n", "")
        assert argv[1:-1] == ["--quiet", "--no-reread", "--no-tell-kernel", "-N", "1"]
        assert input is not None
        assert self.saved is None or self.saved.read_text() == "label: gpt\n", (
            "not saved before it was changed"
        )
        self.inputs.append(input)
        del self.tables[0]
        return Completed(tuple(argv), 0, "", "")


@pytest.mark.anyio
async def test_end_moves_and_nothing_else(tmp_path: Path) -> None:
    """A size is written and no start, after the old table was saved."""
    saved = tmp_path / "tables/vol.sfdisk"
    sfdisk = FakeSfdisk([describe((1, 2048, 4096)), describe((1, 2048, 8192))], saved=saved)
    entry = await grow_partition(7, 1, 8192 * 512, saved, run=sfdisk)
    assert (entry.number, entry.start_bytes, entry.size_bytes) == (1, 2048 * 512, 8192 * 512)
    assert sfdisk.inputs == [",8192\n"]


@pytest.mark.anyio
async def test_sizes_are_in_the_disks_sectors(tmp_path: Path) -> None:
    """On a disk of 4 KiB sectors the same bytes are fewer sectors."""
    tables = [describe((1, 256, 512), sector=4096), describe((1, 256, 1024), sector=4096)]
    sfdisk = FakeSfdisk(tables)
    entry = await grow_partition(7, 1, 1024 * 4096, tmp_path / "saved", run=sfdisk)
    assert (entry.start_bytes, sfdisk.inputs) == (MIB, [",1024\n"])


@pytest.mark.anyio
async def test_grown_already_is_told_to_the_kernel_again(tmp_path: Path) -> None:
    """Killed between disk and kernel, the next attempt writes nothing and returns what the kernel needs."""
    sfdisk = FakeSfdisk([describe((1, 2048, 8192))])
    entry = await grow_partition(7, 1, 8192 * 512, tmp_path / "saved", run=sfdisk)
    assert (entry.size_bytes, sfdisk.inputs) == (8192 * 512, [])
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize(
    ("table", "to_sectors", "why"),
    [
        (describe((1, 2048, 4096)), 4095, "never shrunk"),
        (describe((1, 2048, 4096), (2, 8192, 4096)), 5000, "another partition comes after"),
        (describe((1, 2048, 4096), label="bsd"), 8192, "bsd are not known"),
        (describe((1, 2048, 4096), label="dos", kind="f"), 8192, "not a primary"),
        (describe((1, 2048, 4096), label="dos", kind="83"), (1 << 32) - 2048, "2 TiB"),
    ],
)
@pytest.mark.anyio
async def test_what_cannot_grow_is_refused_unwritten(
    tmp_path: Path, table: str, to_sectors: int, why: str
) -> None:
    """Wherever more than the end of the last partition is at stake, the table is left as it is."""
    sfdisk = FakeSfdisk([table])
    with pytest.raises(RefusedError, match=why):
        await grow_partition(7, 1, to_sectors * 512, tmp_path / "saved", run=sfdisk)
    assert sfdisk.inputs == []


@pytest.mark.anyio
async def test_part_of_a_sector_is_refused(tmp_path: Path) -> None:
    """A partition is whole sectors."""
    with pytest.raises(RefusedError, match="whole number of sectors"):
        await grow_partition(
            7, 1, 8192 * 512 + 1, tmp_path / "s", run=FakeSfdisk([describe((1, 2048, 4096))])
        )


@pytest.mark.parametrize(
    "after",
    [
        describe((1, 2049, 8192)),
        describe((1, 2048, 8191)),
        describe((1, 2048, 8192), kind="EF00"),
        describe((1, 2048, 8192), (2, 1 << 20, 1)),
        describe((1, 2048, 8192), label="dos"),
        describe(),
    ],
)
@pytest.mark.anyio
async def test_table_that_came_out_otherwise_is_named(tmp_path: Path, after: str) -> None:
    """Whatever differs but the one size is an error that tells where the old table is."""
    sfdisk = FakeSfdisk([describe((1, 2048, 4096)), after])
    with pytest.raises(AgentError, match="not as it should be") as caught:
        await grow_partition(7, 1, 8192 * 512, tmp_path / "saved", run=sfdisk)
    assert str(tmp_path / "saved") in (caught.value.hint or "")


@pytest.mark.anyio
async def test_unsaved_table_is_not_changed(tmp_path: Path) -> None:
    """Where the old table cannot be saved, the new one is not written."""
    (tmp_path / "file").write_text("")
    sfdisk = FakeSfdisk([describe((1, 2048, 4096))])
    with pytest.raises(AgentError, match="could not be saved"):
        await grow_partition(7, 1, 8192 * 512, tmp_path / "file/saved", run=sfdisk)
    assert sfdisk.inputs == []


@pytest.mark.anyio
async def test_missing_partition_is_named(tmp_path: Path) -> None:
    """A partition that is not in the table on the disk is not grown."""
    with pytest.raises(AgentError, match="no partition 1"):
        await grow_partition(7, 1, MIB, tmp_path / "saved", run=FakeSfdisk([describe((2, 2048, 4096))]))


@given(st.text(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_nonsense_is_an_error(text: str) -> None:
    """Whatever sfdisk may print one day, it is a known table or an AgentError."""
    with pytest.raises(AgentError):
        parse_table(text, DEVICE)


@pytest.mark.parametrize(
    "change",
    [
        ("start", -1),
        ("size", 0),
        ("size", "4096"),
        ("node", "/dev/sda1"),
        ("node", f"{DEVICE}p"),
        ("node", None),
    ],
)
def test_entry_that_is_none_is_an_error(change: tuple[str, object]) -> None:
    """Negative, missing and misnamed values are refused, not guessed at."""
    table = json.loads(describe((1, 2048, 4096)))
    table["partitiontable"]["partitions"][0][change[0]] = change[1]
    with pytest.raises(AgentError):
        parse_table(json.dumps(table), DEVICE)


@pytest.mark.parametrize("wrong", [1.5, float("inf"), float("nan"), True, "2048", None, -1, [1]])
@pytest.mark.parametrize("name", ["start", "size", "sectorsize"])
def test_numbers_are_whole(name: str, wrong: object) -> None:
    """A place or a size that is no whole number is not calculated with."""
    table = json.loads(describe((1, 2048, 4096)))
    holder = table["partitiontable"]
    (holder if name == "sectorsize" else holder["partitions"][0])[name] = wrong
    with pytest.raises(AgentError, match="in a way that is known"):
        parse_table(json.dumps(table), DEVICE)
