"""Which volumes come first on the page, and how much is shown of each, so that a page stays small."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

Volume = dict[str, Any]

CHARTED = 7
"""Volumes with charts on one page: about three kilobytes each. The others' are a link away."""
CARDS = 14
ROWS = 24
"""Volumes in order that have a row of the table; of more there are names only."""

_WORST_FIRST = ("Lost", "Failed", "Refused", "Degraded", "Pending")
_USABLE = ("Ready", "Degraded")
_UNDER_WAY = "Preparing"


class Triage(Struct, frozen=True):
    """The volumes of a node, by what is to be shown of them."""

    unwell: tuple[Volume, ...]
    """Worst first, and the required ones first among equals."""
    well: tuple[Volume, ...]
    unmanaged: tuple[Volume, ...]

    @property
    def blocking(self) -> tuple[Volume, ...]:
        """Those the node requires and that cannot be used, and will not be by themselves."""
        managed = (*self.unwell, *self.well)
        usable = (*_USABLE, _UNDER_WAY)
        return tuple(one for one in managed if one["required"] and one["condition"] not in usable)

    @property
    def under_way(self) -> tuple[Volume, ...]:
        """Those the node requires and that are being prepared, with nothing wrong."""
        return tuple(one for one in self.well if one["required"] and one["condition"] == _UNDER_WAY)


def triage(volumes: list[Volume]) -> Triage:
    """Return the volumes as they are to be shown."""
    unwell = [volume for volume in volumes if volume["condition"] in _WORST_FIRST]
    unwell.sort(key=lambda volume: (_WORST_FIRST.index(volume["condition"]), not volume["required"]))
    unmanaged = tuple(volume for volume in volumes if volume["condition"] == "Unmanaged")
    rest = (*_WORST_FIRST, "Unmanaged")
    well = tuple(volume for volume in volumes if volume["condition"] not in rest)
    return Triage(tuple(unwell), well, unmanaged)


def name_volume(volume: Volume) -> str:
    """Return what people call a volume."""
    return volume["name"] or volume["volume_id"] or "?"
