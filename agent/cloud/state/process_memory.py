"""What one process keeps of the cloud from look to look. Losing it costs time and calls, never truth."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct, field

from agent.cloud.state.free_volumes import FreeVolumes
from agent.cloud.state.made_volumes import Makings
from agent.core.model import VolumeId


class CloudMemory(Struct):
    """The cloud loop's memory, which its tasks read and write."""

    makings: Makings = field(default_factory=Makings)
    """Of claims' volumes; on a node this outlasts the process."""
    chosen: set[VolumeId] = field(default_factory=set)
    """Volumes found by tags once: from then on they are asked about by ID."""
    departing: dict[VolumeId, datetime] = field(default_factory=dict)
    """Volumes whose claim is gone, likewise, with the time of their deletion that was written on them."""
    free: FreeVolumes = field(default_factory=FreeVolumes)
    """Volumes whose time has come, and their last snapshots."""
    dropped: set[VolumeId] = field(default_factory=set)
    """Unmounted because their claim is gone."""
    lost: dict[VolumeId, float] = field(default_factory=dict)
    """Volumes of pools that another node was quicker to attach, and when that was, monotonic."""
    unheld: dict[VolumeId, tuple[str, datetime, str | None]] = field(default_factory=dict)
    """Volumes nobody holds that are to be deleted: of which claim, when, and why not yet."""
    unheld_look_s: float | None = None
    """When such volumes are looked for again, monotonic."""
    unheld_marked_s: dict[VolumeId, float] = field(default_factory=dict)
    """Those on which it was written lately that they were seen, and when that was."""
    taken_names: set[str] = field(default_factory=set)
    """Block device names that EC2 said are in use, by what nothing else tells of."""

    def list_known(self) -> frozenset[VolumeId]:
        """Return the volumes to ask about by ID."""
        return self.makings.list_volumes() | self.chosen | self.departing.keys()
