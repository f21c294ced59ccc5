"""Copies that are attached only when all of their content is there."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from agent.cloud.aws.models import CloudVolume
from agent.controller.attaching.initialized import TOLD_AFTER, Initialized
from agent.controller.calls import AttachCall, NoSuchThingError
from agent.core.errors import AgentError
from agent.core.model import AwsChecks, Initialization, VolumeId
from agent.core.reasons import Reason
from agent.core.replace import replace
from tests.unit.controller.stand_in import NODE, VOLUME, StandIn
from tests.unit.controller.test_attach import Controller

MADE = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
COPY = CloudVolume(VOLUME, "available", 1, "gp3", "us-west-2a", snapshot_id="snap-0123456789abcdef0")
CALL = AttachCall(VOLUME, NODE, is_initialized_first=True)


@pytest.mark.parametrize("facts", [{"snapshot_id": "snap-1"}, {"source_volume_id": "vol-1"}])
async def test_a_copy_is_attached_when_it_is_whole(facts: dict[str, str]) -> None:
    """Before, nothing is asked of AWS but how far it is; the answer says so, and is to be asked again."""
    cloud = StandIn()
    cloud.add(VOLUME, **facts)
    cloud.checks[VOLUME] = Initialization(40, 540, "provisioned-rate")
    with pytest.raises(AgentError, match=r"has 40 % of its content, .* in 9 min; it is attached") as raised:
        await Controller(cloud).attach(CALL)
    assert raised.value.reason is Reason.WAITING_FOR_CLOUD
    assert "blockAttachUntilInitialized" in (raised.value.hint or "")
    assert cloud.made == []
    cloud.checks[VOLUME] = Initialization(100)
    await Controller(cloud).attach(CALL)
    assert len(cloud.made) == 1


async def test_others_have_their_turn_meanwhile() -> None:
    """A volume that is not whole can be attached by who does not wait, and let go."""
    cloud = StandIn()
    cloud.add(snapshot_id="snap-1")
    cloud.checks[VOLUME] = Initialization(1)
    controller = Controller(cloud)
    with pytest.raises(AgentError, match="has 1 %"):
        await controller.attach(CALL)
    await controller.attach(AttachCall(VOLUME, NODE))
    await controller.detach(VOLUME, NODE)


async def test_what_began_empty_is_not_asked_about() -> None:
    """A class may say so for every claim."""
    cloud = StandIn()
    cloud.add()
    cloud.checks[VOLUME] = Initialization(1)
    await Controller(cloud).attach(CALL)
    assert len(cloud.made) == 1


async def test_one_that_is_gone_is_told() -> None:
    with pytest.raises(NoSuchThingError):
        await Controller(StandIn()).attach(CALL)


@pytest.mark.parametrize(
    ("age", "checks", "is_held"),
    [
        (TOLD_AFTER - timedelta(seconds=1), None, True),
        (TOLD_AFTER - timedelta(seconds=1), AwsChecks("insufficient-data"), True),
        (TOLD_AFTER, None, False),
        (TOLD_AFTER, AwsChecks("ok"), False),
        (timedelta(0), AwsChecks("ok", initialization=Initialization(100)), False),
        (timedelta(days=99), AwsChecks("ok", initialization=Initialization(99)), True),
    ],
)
async def test_a_new_copy_waits_until_aws_can_say(
    age: timedelta, checks: AwsChecks | None, *, is_held: bool
) -> None:
    """AWS says for up to five minutes nothing; of an old volume it may never have said anything."""

    async def find(_: VolumeId) -> AwsChecks | None:
        return checks

    for made in (MADE.isoformat(), MADE.strftime("%Y-%m-%dT%H:%M:%S.000Z")):
        volume = replace(COPY, created_at=made)
        wait = Initialized(find, lambda: MADE + age).require(volume)
        if is_held:
            with pytest.raises(AgentError, match="it is attached when all of it is there"):
                await wait
        else:
            await wait


@pytest.mark.parametrize("made", ["", "yesterday"])
async def test_without_a_time_it_is_an_old_one(made: str) -> None:
    async def find(_: VolumeId) -> None:
        return None

    await Initialized(find).require(replace(COPY, created_at=made))
