"""The machine as the loop sees it: who is to blame for an answer that did not come in time."""

from __future__ import annotations

import pytest

from agent.core.replace import replace
from agent.node.kernel.disk_counters import BlockCounters
from agent.node.volume_session.context import stands_still

BEFORE = BlockCounters(
    reads=100, read_bytes=4096, read_ms=10, writes=100, write_bytes=4096, write_ms=10, in_flight=2, busy_ms=10
)


@pytest.mark.parametrize(
    ("before", "after", "is_stuck", "is_stalled"),
    [
        (BEFORE, BEFORE, False, True),
        (BEFORE, replace(BEFORE, reads=101), False, False),
        (BEFORE, replace(BEFORE, reads=101), True, False),
        (BEFORE, replace(BEFORE, in_flight=0), False, False),
        (replace(BEFORE, in_flight=0), BEFORE, False, False),
        (replace(BEFORE, in_flight=0), replace(BEFORE, in_flight=0), False, False),
        (replace(BEFORE, in_flight=0), replace(BEFORE, in_flight=0), True, True),
        (BEFORE, None, True, False),
    ],
    ids=[
        "holds what it was asked",
        "completes some of it",
        "completes some and is slow with the agent's",
        "completed all without being counted",
        "was asked only now",
        "was never asked, for want of a processor",
        "holds the agent's question",
        "is gone",
    ],
)
def test_volume_that_does_not_answer_is_told_from_a_machine_without_time(
    before: BlockCounters, after: BlockCounters | None, *, is_stuck: bool, is_stalled: bool
) -> None:
    """A volume is stalled where it was asked and completes nothing, whoever asked."""
    assert stands_still(before, after, is_stuck=is_stuck) is is_stalled
