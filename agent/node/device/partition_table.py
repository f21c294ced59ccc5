"""Growing a partition in place: its end moves, while it may be mounted; its start and everything else stay.

The table is saved in a file before it is touched and compared after. The agent never makes, moves or removes
a partition, and grows none but the last on its disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from msgspec import Struct

from agent.core.errors import AgentError, RefusedError
from agent.core.model import Reason
from agent.core.replace import replace
from agent.node.device.partition_steps import save_table
from agent.node.isolate.programs import Run, descriptor_path, run

Save: TypeAlias = Callable[[Path, str], Awaitable[None]]
"""Puts the text of a partition table on disk, or raises, so that the table is left as it is."""

_TIMEOUT_S = 60.0
_EXTENDED_TYPES = {"5", "f", "85"}


class Entry(Struct, frozen=True):
    """One line of a partition table. ``rest`` is all that must never change: type, UUID, name, attributes."""

    number: int
    start_bytes: int
    size_bytes: int
    rest: tuple[tuple[str, str], ...] = ()

    @property
    def type(self) -> str:
        return dict(self.rest).get("type", "")


class Table(Struct, frozen=True):
    """A partition table as it is on the disk: ``label`` is gpt or dos, ``id`` the table's own."""

    label: str
    id: str
    sector_bytes: int
    entries: tuple[Entry, ...]

    def find(self, number: int) -> Entry:
        for entry in self.entries:
            if entry.number == number:
                return entry
        raise AgentError(f"The partition table has no partition {number}.", reason=Reason.PARTITIONED)

    def with_size(self, number: int, size_bytes: int) -> Table:
        """Return the table with one partition of another size, and nothing else different."""
        return replace(
            self,
            entries=tuple(
                replace(entry, size_bytes=size_bytes) if entry.number == number else entry
                for entry in self.entries
            ),
        )


async def save_at_once(path: Path, table: str) -> None:
    """Put the text of a partition table on disk, waiting for it: not on the daemon's loop."""
    save_table(path, table)


async def grow_partition(
    device_fd: int,
    number: int,
    to_bytes: int,
    saved_table: Path,
    *,
    save: Save = save_at_once,
    confirm: Callable[[], None] = lambda: None,
    run: Run = run,
) -> Entry:
    """Give a partition ``to_bytes``, a whole number of sectors, and return its line of the table.

    ``device_fd`` is the pinned whole disk; the table as it was is written to ``saved_table`` first, by
    ``save``. ``confirm`` raises where the partition is not to grow any more, and is asked last. The kernel
    is not told: :func:`resize_kernel_partition` does that, with what is returned.
    """
    before = await read_table(device_fd, run=run)
    entry = before.find(number)
    if entry.size_bytes == to_bytes:
        return entry
    _check_growable(before, entry, to_bytes)
    dump = await run(
        ["sfdisk", "--dump", descriptor_path(device_fd)], timeout_s=_TIMEOUT_S, pass_fds=[device_fd]
    )
    await save(saved_table, dump.stdout)
    confirm()
    await run(
        [
            "sfdisk",
            "--quiet",
            "--no-reread",
            "--no-tell-kernel",
            "-N",
            str(number),
            descriptor_path(device_fd),
        ],
        timeout_s=_TIMEOUT_S,
        pass_fds=[device_fd],
        # Without a start, so that sfdisk keeps it.
        input=f",{to_bytes // before.sector_bytes}\n",
    )
    after = await read_table(device_fd, run=run)
    if after != before.with_size(number, to_bytes):
        raise AgentError(
            f"The partition table is not as it should be after growing partition {number}.",
            hint=f"Compare sfdisk --dump with {saved_table}, which sfdisk can write back.",
            reason=Reason.STEP_FAILED,
            retryable=False,
        )
    return after.find(number)


async def read_table(device_fd: int, *, run: Run = run) -> Table:
    """Return the partition table that is on the disk, whatever the kernel believes."""
    device = descriptor_path(device_fd)
    completed = await run(["sfdisk", "--json", device], timeout_s=_TIMEOUT_S, pass_fds=[device_fd])
    return parse_table(completed.stdout, device)


def parse_table(text: str, device: str) -> Table:
    """Parse what ``sfdisk --json`` wrote about ``device``; AgentError for anything it would not write."""
    try:
        table = json.loads(text)["partitiontable"]
        sector_bytes = _check_number(table.get("sectorsize", 512), least=1)
        return Table(
            label=str(table["label"]),
            id=str(table["id"]),
            sector_bytes=sector_bytes,
            entries=tuple(_parse_entry(found, device, sector_bytes) for found in table.get("partitions", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AgentError(
            "sfdisk did not describe the partition table in a way that is known.", reason=Reason.STEP_FAILED
        ) from error


def _parse_entry(found: dict[str, Any], device: str, sector_bytes: int) -> Entry:
    number = re.fullmatch(re.escape(device) + r"p?([0-9]{1,3})", found["node"])
    if number is None:
        raise ValueError(found)
    return Entry(
        number=int(number[1]),
        start_bytes=_check_number(found["start"]) * sector_bytes,
        size_bytes=_check_number(found["size"], least=1) * sector_bytes,
        rest=tuple(sorted((key, str(found[key])) for key in found if key not in {"node", "start", "size"})),
    )


def _check_number(value: object, least: int = 0) -> int:
    """Return a whole number as it is; to Python true is one, and 1.5 could be multiplied as well."""
    if type(value) is not int or value < least:
        raise ValueError(value)
    return value


def _check_growable(table: Table, entry: Entry, to_bytes: int) -> None:
    """Refuse to change a size where more than the end of the last partition would be at stake."""
    why: str | None = None
    if to_bytes < entry.size_bytes:
        why = "it is larger already, and partitions are never shrunk"
    elif to_bytes % table.sector_bytes:
        why = f"{to_bytes} bytes are no whole number of sectors"
    elif any(other.start_bytes > entry.start_bytes for other in table.entries):
        why = "another partition comes after it"
    elif table.label not in {"gpt", "dos"}:
        why = f"tables of the kind {table.label} are not known"
    elif table.label == "dos" and (entry.number > 4 or entry.type.lower() in _EXTENDED_TYPES):  # noqa: PLR2004
        why = "it is not a primary partition"
    elif table.label == "dos" and (entry.start_bytes + to_bytes) // table.sector_bytes >= 1 << 32:
        why = "an MBR reaches 2 TiB only; convert it to GPT (sgdisk --mbrtogpt)"
    if why is not None:
        raise RefusedError(
            f"Partition {entry.number} cannot grow to {to_bytes} bytes: {why}.",
            reason=Reason.NOT_GROWN,
            retryable=False,
        )
