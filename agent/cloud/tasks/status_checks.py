"""Asks AWS how the volumes here are: for all of them in one call, as rarely as its checks have news.

EBS checks every volume each five minutes, and says how far one is whose content still comes from a snapshot
or another volume. Nothing hangs on it: where asking is denied or fails, it rests and all else goes on.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from agent.base.log import get_logger
from agent.cloud.aws.answer_fields import split
from agent.cloud.aws.call import Make
from agent.cloud.aws.volume_status import DescribeVolumeStatus
from agent.cloud.view.retry_pauses import BackOffs
from agent.core.errors import AgentError
from agent.core.model import AwsChecks, Reason, VolumeId

if TYPE_CHECKING:
    from agent.cloud.view.cloud_state import CloudState

log = get_logger(__name__)

CHECKUPS = "(volume status)"
"""What asking rests under; no entry can be named so."""
EVERY_S = 300.0
"""EBS makes its checks as often."""
OFTEN_S = 120.0
"""While a volume's content is still coming, or something is wrong with one."""
NEWCOMER_S = (30.0, 120.0)
"""After a volume came: nodes that boot together have more urgent things to ask, and many of them."""
FORGET_S = 900.0
"""An answer that is older says nothing of how a volume is now."""
_IDS_OF_A_CALL = 200


class Checkups:
    """What AWS said last of the volumes here."""

    def __init__(self, make: Make, rests: BackOffs, clock: Callable[[], float], rng: random.Random) -> None:
        self._make = make
        self._rests = rests
        self._clock = clock
        self._rng = rng
        self._here: frozenset[VolumeId] = frozenset()
        self._due_at_s = math.inf
        self._is_pressing = False
        """Another answer is to be expected before the next look at what is settled."""
        self._found_at_s = -math.inf
        self._found: dict[VolumeId, AwsChecks] = {}

    async def tend(self, look: CloudState) -> None:
        """Ask about all volumes here that were just described, where it is time to. Never raises for AWS."""
        here = frozenset(
            volume.volume_id
            for volume in look.list_volumes()
            if look.has_device(volume.volume_id) and not volume.is_gone
        )
        now_s = self._clock()
        if here - self._here:
            self._due_at_s = min(self._due_at_s, now_s + self._rng.uniform(*NEWCOMER_S))
            self._is_pressing = True
        self._here = here
        if not here or now_s < self._due_at_s or self._rests.find(CHECKUPS) is not None:
            return
        try:
            found = await self._ask(sorted(here))
        except AgentError as error:
            if self._rests.note_failure(CHECKUPS, error):
                event = "cloud.denied" if error.reason is Reason.PERMISSION_DENIED else "cloud.failed"
                log.warning(event, error=error.message, hint=error.hint)
            return
        self._rests.forget(CHECKUPS)
        self._found, self._found_at_s = found, now_s
        self._is_pressing = any(one.is_changing for one in found.values())
        pause_s = OFTEN_S if self._is_pressing else EVERY_S
        self._due_at_s = now_s + pause_s * self._rng.uniform(1.0, 1.2)

    async def _ask(self, here: list[VolumeId]) -> dict[VolumeId, AwsChecks]:
        found: dict[VolumeId, AwsChecks] = {}
        for start in range(0, len(here), _IDS_OF_A_CALL):
            chunk = tuple(here[start : start + _IDS_OF_A_CALL])
            read, _ = split(await self._make(DescribeVolumeStatus(chunk)))
            found |= {one.volume_id: one.checks for one in read if one.volume_id in chunk}
        return found

    def list_recent(self) -> Mapping[VolumeId, AwsChecks]:
        """Return what AWS said last of volumes that are here, unless that is long ago."""
        is_old = self._clock() - self._found_at_s > FORGET_S
        return {} if is_old else {one: self._found[one] for one in self._found if one in self._here}

    def count_seconds_to_next(self) -> float | None:
        """Return how long until it is worth looking for this alone; None: it is not."""
        if not self._here or not self._is_pressing:
            return None
        return max(self._due_at_s - self._clock(), self._rests.count_left_s(CHECKUPS), 1.0)
