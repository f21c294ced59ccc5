"""Makes a claim's volume as a copy of another volume, with writes held where that is mounted on this node.

What EC2 copies is how the source is at one moment, as after a power cut. A filesystem that is frozen for that
moment is whole, and what its programs had written is in the copy.
"""

from __future__ import annotations

from agent.cloud.aws.call import Make
from agent.cloud.aws.making_calls import CopyVolumes, MakingCall
from agent.cloud.aws.models import CloudVolume
from agent.cloud.snapshots.take_frozen import make_held, rehearse
from agent.cloud.view.cloud_report import Hands
from agent.core.replace import replace


async def make_volume(make: Make, hands: Hands, call: MakingCall) -> CloudVolume:
    """Make the volume and return it, or raise CloudError; what was frozen for it is thawed by then."""
    if not isinstance(call, CopyVolumes) or call.source_volume_id not in hands.list_devices():
        volume: CloudVolume = await make(call)
        return volume
    await rehearse(make, replace(call, is_dry_run=True))
    volume, _ = await make_held(make, hands.freeze, call.source_volume_id, call, "begin the copy")
    return volume
