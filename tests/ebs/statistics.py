"""What a volume served, counted as EBS counts it: the numbers behind log page 0xD0.

Only reads and writes that completed successfully count, each once, from the moment its command arrived until
its answer left. Bytes, operations and microseconds since the volume was attached.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# Bins double from 1 µs to 67 s. The page carries the edges, so that readers need not know them.
BIN_EDGES_US = (0, *(1 << exponent for exponent in range(27)))
LAST_UPPER_EDGE_US = (1 << 64) - 1


@dataclass
class Direction:
    """Reads, or writes: totals, and how many took how long, from ``BIN_EDGES_US[i]`` on in ``bins[i]``."""

    ops: int = 0
    total_bytes: int = 0
    time_us: int = 0
    bins: list[int] = field(default_factory=lambda: [0] * len(BIN_EDGES_US))

    def count(self, size_bytes: int, duration_us: int) -> None:
        self.ops += 1
        self.total_bytes += size_bytes
        self.time_us += duration_us
        self.bins[min(duration_us.bit_length(), len(self.bins) - 1)] += 1


@dataclass
class Statistics:
    """Counters of one attachment; ``queue_length`` is how many reads and writes are in flight now."""

    read: Direction = field(default_factory=Direction)
    write: Direction = field(default_factory=Direction)
    queue_length: int = 0
