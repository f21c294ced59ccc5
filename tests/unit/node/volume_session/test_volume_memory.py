"""What is recalled of a volume from pass to pass, and of which state of its device."""

from __future__ import annotations

from agent.core.model import Checked, Device, DeviceNumber, Foreign, Identity, VolumeId
from agent.core.replace import replace
from agent.node.volume_session.recheck import State
from agent.node.volume_session.volume_memory import VolumeMemory

DEVICE = Device("/dev/nvme1n1", DeviceNumber(259, 0), Identity(VolumeId("vol-1"), "", ""), 1 << 30, diskseq=7)
DATA = Foreign("data at byte 0", is_signed=False)
STATE = State(7, 1 << 30, (1, 2))
WRONG = Checked(is_clean=False, detail="an orphan inode")


def test_data_is_recalled_of_the_same_appearance_alone() -> None:
    """Of another disk, and of one that was made larger, nothing is known; a signature needs no memory."""
    memory = VolumeMemory()
    memory.keep_content(DEVICE, DATA)
    assert memory.recall_data(DEVICE) == DATA
    assert memory.recall_data(replace(DEVICE, diskseq=8)) is None
    assert memory.recall_data(replace(DEVICE, size_bytes=2 << 30)) is None
    memory.keep_content(DEVICE, Foreign("LUKS"))
    assert memory.recall_data(DEVICE) is None
    nameless = replace(DEVICE, diskseq=None)
    memory.keep_content(nameless, DATA)
    assert memory.recall_data(nameless) is None


def test_fault_is_recalled_of_the_state_it_was_found_in() -> None:
    """Whoever wrote since may have mended it, and a state that cannot be told is like no other."""
    memory = VolumeMemory()
    memory.keep_check(STATE, WRONG)
    assert (memory.has_fault, memory.recall_check(STATE)) == (True, WRONG)
    assert memory.recall_check(replace(STATE, writes=(1, 3))) is None
    assert memory.recall_check(None) is None
    for state, checked in ((None, WRONG), (STATE, replace(WRONG, is_clean=True))):
        memory.keep_check(STATE, WRONG)
        memory.keep_check(state, checked)
        assert not memory.has_fault
    memory.keep_check(STATE, WRONG)
    memory.forget_check()
    assert memory.recall_check(STATE) is None
