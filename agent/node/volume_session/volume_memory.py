"""What is remembered of one volume from pass to pass, for as long as the agent runs.

What was found on a device is recalled of that state of it alone: nobody has written to it since.
"""

from __future__ import annotations

from msgspec import Struct

from agent.core.model import Checked, Content, Device, Foreign
from agent.node.mounts.detached_mounts import Leftover
from agent.node.volume_session.inspect import PastLook
from agent.node.volume_session.recheck import State


class VolumeMemory(Struct):
    """One volume's; the context keeps it."""

    was_lost: bool = False
    """It vanished while it was mounted, and was not seen in use since."""
    leftovers: tuple[Leftover, ...] = ()
    """Mounts of it that vanished with its device: out of sight, perhaps still in use."""
    last_look: PastLook | None = None
    """The last look, where another that finds the same tells all that a pass would find out."""
    last_known: tuple[object, ...] = ()
    """What was known beside that look, and bears on what is done: equal as long as that is so."""
    _data: tuple[int, int, Foreign] | None = None
    """An appearance, as disk sequence number and size, and the unsigned data that a proof found on it."""
    _fault: tuple[State, Checked] | None = None
    """What a check found wrong, and in which state of the device."""

    @property
    def has_fault(self) -> bool:
        """A check found something wrong, which holds while nobody writes to the device."""
        return self._fault is not None

    def keep_check(self, state: State | None, checked: Checked) -> None:
        """Keep what a check found wrong, where the state that it found it in can be told from others."""
        self._fault = None if state is None or checked.is_clean else (state, checked)

    def recall_check(self, state: State | None) -> Checked | None:
        """Return what was found wrong with the volume if it is in the same state still."""
        return self._fault[1] if self._fault is not None and self._fault[0] == state else None

    def forget_check(self) -> None:
        """Have the volume checked again, whatever was found before."""
        self._fault = None

    def keep_content(self, device: Device, content: Content) -> None:
        """Keep that a proof found data without a signature; anything else is found again without one."""
        self._data = None
        if isinstance(content, Foreign) and not content.is_signed and device.diskseq is not None:
            self._data = (device.diskseq, device.size_bytes, content)

    def recall_data(self, device: Device) -> Foreign | None:
        """Return the data that a proof found on this appearance of the device."""
        if self._data is None or self._data[:2] != (device.diskseq, device.size_bytes):
            return None
        return self._data[2]
