"""Makes volumes that a person asks for: one for each name in a cluster, and what was asked for or none."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator

from msgspec import Struct

from agent.cloud.aws.calls import DescribeVolumes
from agent.cloud.aws.making_calls import CreateVolume
from agent.cloud.aws.models import MADE_BY, TAG_CLUSTER, TAG_MADE_BY, TAG_ORDER, CloudVolume
from agent.cloud.errors.explain import CloudError, require_read
from agent.cloud.errors.rules import is_token_burnt
from agent.cloud.orders.runner import Follower
from agent.cloud.plan.class_drift import is_same_key
from agent.cloud.state.made_volumes import MOST_GENERATIONS
from agent.core.errors import AgentError, ExitCode, RefusedError


class NewVolume(Struct, frozen=True):
    """A volume asked for by hand."""

    size_gib: int | None
    type: str = "gp3"
    iops: int | None = None
    throughput: int | None = None
    is_encrypted: bool | None = None
    kms_key_id: str | None = None
    snapshot_id: str | None = None
    name: str | None = None
    """Its Name tag. A name is one volume: asking again for it goes on with the one there is."""


class Place(Struct, frozen=True):
    """Where a volume is made, and whose its name is."""

    cluster: str
    zone: str


async def find_or_make(follower: Follower, wanted: NewVolume, place: Place) -> CloudVolume:
    """Return the volume of this name, made now or before; RefusedError where that is not what is wanted."""
    return await _find(follower, wanted, place) or await _make(follower, wanted, place)


async def _find(follower: Follower, wanted: NewVolume, place: Place) -> CloudVolume | None:
    if wanted.name is None:
        return None
    marks = ((f"tag:{TAG_MADE_BY}", (MADE_BY,)), (f"tag:{TAG_ORDER}", (wanted.name,)))
    answer = require_read(await follower.make(DescribeVolumes(marks)))
    described = [volume for volume in answer if not volume.is_gone]
    found = [volume for volume in described if volume.tag(TAG_CLUSTER) in {place.cluster, None}]
    if not found:
        return None
    if len(found) > 1:
        names = ", ".join(sorted(volume.volume_id for volume in found))
        raise _refuse(f"{len(found)} volumes are named {wanted.name}: {names}.")
    volume = found[0]
    if volume.tag(TAG_CLUSTER) is None:
        raise _refuse(
            f"{volume.volume_id} is named {wanted.name}, and no tag says for which cluster.",
            f"Give it the tag {TAG_CLUSTER}={place.cluster} if it is this one's, or choose another name.",
        )
    await follower.say(f"{wanted.name} is {volume.volume_id} already.")
    differences = ", ".join(find_differences(volume, wanted, place.zone))
    if differences:
        raise _refuse(f"{volume.volume_id}, named {wanted.name}, is not what was asked for: {differences}.")
    return volume


def find_differences(volume: CloudVolume, wanted: NewVolume, zone: str) -> Iterator[str]:
    """Say what of a volume is not as asked for. What was not asked for is as AWS chose it."""
    if volume.snapshot_id != wanted.snapshot_id:
        yield f"it was made from {volume.snapshot_id or 'nothing'}"
    if volume.zone != zone:
        yield f"it lies in {volume.zone}, this node in {zone}"
    if wanted.size_gib not in {None, volume.size_gib}:
        yield f"it has {volume.size_gib} GiB"
    if volume.type != wanted.type:
        yield f"its type is {volume.type}"
    if wanted.iops not in {None, volume.iops}:
        yield f"it has {volume.iops} IOPS"
    if wanted.throughput not in {None, volume.throughput}:
        yield f"it has {volume.throughput} MiB/s"
    if wanted.is_encrypted not in {None, volume.is_encrypted}:
        yield "it is encrypted" if volume.is_encrypted else "it is not encrypted"
    elif not is_same_key(volume.kms_key_id, wanted.kms_key_id):
        yield f"its KMS key is {volume.kms_key_id}"


async def _make(follower: Follower, wanted: NewVolume, place: Place) -> CloudVolume:
    """Make it, under the first token of its name that no deleted volume has used up."""
    for generation in range(MOST_GENERATIONS):
        call = _make_call(wanted, place, generation)
        await follower.say(f"Asking AWS to {call.describe()}.")
        try:
            volume: CloudVolume = await follower.make(call)
        except CloudError as error:
            if error.code != "IdempotentParameterMismatch":
                raise
            if not is_token_burnt(error.message):
                raise _refuse(
                    f"A volume named {wanted.name} was asked for before, with other parameters.",
                    "It may take seconds until AWS describes it. Ask for what was asked before, or choose "
                    "another name.",
                ) from error
        else:
            if not volume.is_gone:
                return volume
    raise AgentError(
        f"{MOST_GENERATIONS} volumes named {wanted.name} were made and deleted lately.",
        hint="Choose another name.",
        retryable=False,
    )


def _make_call(wanted: NewVolume, place: Place, generation: int) -> CreateVolume:
    tags = {TAG_MADE_BY: MADE_BY, TAG_CLUSTER: place.cluster}
    if wanted.name is not None:
        tags |= {"Name": wanted.name, TAG_ORDER: wanted.name}
    return CreateVolume(
        client_token=_make_token(wanted.name, place, generation),
        zone=place.zone,
        size_gib=wanted.size_gib,
        type=wanted.type,
        tags=tuple(sorted(tags.items())),
        iops=wanted.iops,
        throughput=wanted.throughput,
        is_encrypted=wanted.is_encrypted,
        kms_key_id=wanted.kms_key_id,
        snapshot_id=wanted.snapshot_id,
        generation=generation,
    )


def _make_token(name: str | None, place: Place, generation: int) -> str:
    """Return the client token of a name, the same for whoever asks again; of no name, one of its own."""
    if name is None:
        return secrets.token_hex(32)
    words = ("ebs-agent", "order", place.cluster, name, place.zone, str(generation))
    return hashlib.sha256("\0".join(words).encode()).hexdigest()


def _refuse(message: str, hint: str = "Choose another name.") -> RefusedError:
    return RefusedError(message, hint, retryable=False, exit_code=ExitCode.REFUSED)
