"""The words of health: readings in the order they were taken, and the verdicts found in them. Values only."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from agent.core.model import Condition, Reason
from agent.core.replace import replace
from agent.node.kernel.disk_counters import BlockCounters
from agent.node.sampling.ebs_statistics import EbsStatistics
from agent.node.sampling.values import MountSample, Sample

_SEVERITY = {Condition.READY: 0, Condition.DEGRADED: 1, Condition.FAILED: 2, Condition.LOST: 3}


class Verdict(Struct, frozen=True):
    """One thing that is wrong with a volume that the agent has in use: what, and what to do about it."""

    condition: Condition
    reason: Reason
    message: str
    hint: str
    seen_at: float = 0.0
    """When it was last found, by the clock of the readings; one is held for a while after that."""


class Reading(Struct, frozen=True):
    """One attempt to sample a volume, at ``at`` seconds of a clock that only goes forward."""

    at: float
    sample: Sample | None = None
    """None: it did not answer."""
    statistics: EbsStatistics | None = None
    counters: BlockCounters | None = None
    """The kernel's, known of a silent volume too."""
    is_stuck: bool = False
    """Whoever asked is still stuck in the kernel."""
    is_frozen: bool = False
    """Who asked waits since somebody froze its filesystem, and for no device."""
    may_be_frozen: bool = False
    """The kernel does not show for what who asked waits."""

    @property
    def mount(self) -> MountSample | None:
        return None if self.sample is None else self.sample.mount


class Health(Struct, frozen=True):
    """What is known of a volume's health, for showing. ``sample`` is the newest that was answered."""

    sample: Sample | None = None
    statistics: EbsStatistics | None = None
    verdicts: tuple[Verdict, ...] = ()
    """Worst first."""
    probe_s: float | None = None
    """How long the read of the newest sample took, or how long an answer was waited for in vain."""

    @property
    def is_stalled(self) -> bool:
        return any(verdict.reason is Reason.STALLED for verdict in self.verdicts)


def is_worse(one: Condition, than: Condition) -> bool:
    """Tell whether ``one`` says more is wrong; conditions of a volume not in use are beyond comparison."""
    return one in _SEVERITY and than in _SEVERITY and _SEVERITY[one] > _SEVERITY[than]


def sort_verdicts(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Return the worst first; those equally bad stay in their order."""
    return tuple(sorted(verdicts, key=lambda verdict: -_SEVERITY[verdict.condition]))


def strip_reading(reading: Reading) -> Reading:
    """Return the reading without what only the newest is asked for, so that a window of them stays small."""
    sample, statistics = reading.sample, reading.statistics
    return replace(
        reading,
        sample=sample and replace(sample, log_page=None),
        statistics=statistics
        and replace(
            statistics,
            read=replace(statistics.read, histogram=None),
            write=replace(statistics.write, histogram=None),
        ),
    )
