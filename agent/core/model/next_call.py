"""What the agent is going to ask of AWS next about a volume, as far as that is decided."""

from __future__ import annotations

from datetime import datetime

from msgspec import Struct

from agent.core.model.volume import VolumeId


class NextCall(Struct, frozen=True):
    """One change at AWS that is decided on and not seen to have happened."""

    entry: str
    """The policy's name of the volume; of one that is to leave, its claim's name and its ID."""
    volume_id: VolumeId | None
    """None: the volume is still to be made."""
    operation: str
    text: str
    """What the call does, in the present tense."""
    at: datetime | None = None
    """Not before then; None: as soon as may be."""
    why: str | None = None
    """What keeps it from being made now, in a sentence."""
