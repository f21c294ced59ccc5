"""Which volumes AWS says that it will not tell about, and which of those here it was never asked about.

No failure says so but one: asking is denied to whom AWS knows. A network that is not up, credentials that
are not there yet, a limit that is reached: all of them pass. That AWS knows no volume of an ID counts once it
has said it for a while, since it describes what was just made with a delay.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from agent.cloud.aws.calls import DescribeVolumes
from agent.cloud.errors.explain import CloudError
from agent.cloud.view.cloud_state import CloudState
from agent.core.errors import AgentError
from agent.core.model import VolumeId

UNKNOWN_FOR_S = 30.0
ASK_AGAIN_S = 5.0
"""How soon to look again while an ID is new to AWS."""

_ACTION = f"ec2:{DescribeVolumes.operation}"


class UntoldVolumes:
    """What became of asking, volume by volume, for as long as the cloud is asked."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._asked: set[VolumeId] = set()
        """Volumes that a look has asked about, whatever came of it."""
        self._here: frozenset[VolumeId] = frozenset()
        self._missing_since_s: dict[VolumeId, float] = {}
        self.volumes: frozenset[VolumeId] = frozenset()
        self.is_unsure = False
        """AWS does not know a volume that is here, and may still come to."""

    def begin_look(self, here: Collection[VolumeId]) -> None:
        """Take note that AWS is asked about the volumes that are here."""
        self._here = frozenset(here)
        self._asked |= self._here

    def has_stranger(self, here: Collection[VolumeId]) -> bool:
        """Tell whether one of the volumes here was never asked about."""
        return not self._asked.issuperset(here)

    def note_failure(self, error: AgentError) -> None:
        """Take note that a look failed: only a denial is an answer, and about those it was asked for."""
        if isinstance(error, CloudError) and error.denied_action == _ACTION:
            self.volumes |= self._here

    def note_look(self, look: CloudState) -> None:
        """Take note of what a look described, and tell it which volumes AWS will not tell about."""
        now_s = self._clock()
        unread = look.list_unread()
        missing = look.asked - look.volumes.keys() - unread
        self._missing_since_s = {volume: self._missing_since_s.get(volume, now_s) for volume in missing}
        unknown = {
            volume for volume, since_s in self._missing_since_s.items() if now_s - since_s >= UNKNOWN_FOR_S
        }
        self.volumes = (self.volumes | unknown) - look.volumes.keys() - unread
        self.is_unsure = bool((missing & self._here) - self.volumes)
        look.untold = self.volumes
