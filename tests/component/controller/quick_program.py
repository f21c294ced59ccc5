"""The controller in a process of its own, whose waiting is short: ``… SOCKET ENDPOINT REGION``.

It is begun again and again, so it imports nothing of tests/aws: moto takes longer than all else here.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import anyio

from agent.cloud.aws.call import Make
from agent.controller.describing.describing import Describing
from agent.controller.patience import Patience
from agent.controller.program import ControllerSettings, Parts, run_controller
from agent.controller.snapshots.cluster_snapshots import ClusterSnapshots
from agent.controller.turns import Turns
from agent.controller.volumes.cluster_volumes import ClusterVolumes
from agent.controller.volumes.listing import KnowNodes

FASTER = 20.0


def compose(make: Make, settings: ControllerSettings, know_nodes: KnowNodes) -> Parts:
    async def sleep(pause_s: float) -> None:
        await anyio.sleep(pause_s / FASTER)

    patience = Patience(lambda: time.monotonic() * FASTER, sleep)
    describing, turns = Describing(make), Turns()
    region, cluster_id = settings.region, settings.cluster_id
    return Parts(
        ClusterVolumes(make, describing, turns, region, cluster_id, know_nodes, patience),
        ClusterSnapshots(make, describing, turns.take, cluster_id, patience),
    )


if __name__ == "__main__":
    said = ControllerSettings(
        Path(sys.argv[1]), "ebs.csi.aws.com", sys.argv[3], cluster_id="prod", cloud_endpoint=sys.argv[2]
    )
    anyio.run(partial(run_controller, said, compose))
