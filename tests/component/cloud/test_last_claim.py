"""A policy whose last claim is gone still has that claim's volume deleted, as the claim said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.cloud.identity.identity_sources import IdentitySources
from agent.cloud.service import CloudService
from agent.cloud.state.made_volumes import Making, Makings
from agent.cloud.state.state_file import FileStore
from agent.cloud.view.cloud_report import CloudReport
from agent.core.model import VolumeId
from agent.policy import Policy
from tests.aws.cloud import CLUSTER_ARN, CLUSTER_ID
from tests.aws.world import CREDENTIALS, World
from tests.waiting import until

TAGS = {
    "ebs-agent:made-by": "ebs-agent",
    "ebs-agent:cluster": CLUSTER_ID,
    "ebs-agent:claim": "ckpt",
    "ebs-agent:node": "compute-1",
    "ebs-agent:on-delete": "delete",
}
LONG_AGO = {"ebs-agent:delete-after": "2020-01-01T00:00:00Z"}


@pytest.mark.parametrize("is_due", [True, False])
async def test_last_claims_volume_goes(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_due: bool
) -> None:
    """A new process with an empty policy knows from the disk that there is something to delete, and when."""
    node = world.add_node(1)
    volume = VolumeId(world.cloud.make_volume(tags={**TAGS, **(LONG_AGO if is_due else {})}))
    path = tmp_path / "claims.json"
    making = Making(volume_id=volume, is_seen=True, on_delete="delete")
    await Makings(FileStore(path)).put(f"{CLUSTER_ID}/compute-1/ckpt", making)
    instance = {"InstanceName": "compute-1", "CustomerIpAddress": "10.0.0.1"}
    groups = [{"Name": "compute", "Instances": [{**instance, "InstanceId": node.identity.instance_id}]}]
    config = {"ClusterConfig": {"ClusterArn": CLUSTER_ARN}, "InstanceGroups": groups}
    (tmp_path / "resource_config.json").write_text(json.dumps(config), "utf-8")
    for name, value in {**CREDENTIALS, "EBS_AGENT_CLOUD_ENDPOINT": world.aws.endpoint}.items():
        monkeypatch.setenv(name, value)
    surroundings = IdentitySources(
        tmp_path / "resource_config.json", None, addresses=frozenset({"10.0.0.1"}), is_ec2=True
    )
    published: list[CloudReport] = []
    events: list[str] = []

    def record(name: str, volume_id: VolumeId | None, /, **_fields: Any) -> None:
        events.append(f"{name} {volume_id}")

    service = CloudService(
        lambda: Policy(version=1, classes={}),
        node.hands,
        published.append,
        lambda _operation, _outcome: None,
        surroundings=lambda: surroundings,
        claims=FileStore(path),
        record=record,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.run)
        if is_due:
            await until(lambda: volume not in world.cloud.volumes, 60)
            await until(lambda: events == [f"volume.deleted {volume}"], 60)
            await until(lambda: not Makings(FileStore(path)).is_any_to_go, 60)
        else:
            await until(lambda: bool(published) and volume in published[-1].departures, 60)
            assert volume in world.cloud.volumes
        tasks.cancel_scope.cancel()
