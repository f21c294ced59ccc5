"""The tags that a volume is found by, and without which it is never deleted. Pure.

They are those of AWS's driver, so that its managed policy reaches, and either may take over from the other.
"""

from __future__ import annotations

from agent.cloud.aws.models import MADE_BY, TAG_CLAIM, TAG_MADE_BY, CloudVolume, Tags
from agent.controller.name_tags import TAG_VOLUME_NAME, name_cluster_tag, require_own, write_name
from agent.core.errors import InvalidValueError, RefusedError
from agent.core.quoting import quote

TAG_DRIVER = "ebs.csi.aws.com/cluster"
MOST_TAGS = 50
LONGEST_KEY = 128
LONGEST_VALUE = 256
"""EC2's limits. Source: the EC2 user guide, "Tag restrictions"."""


def make_tags(name: str, tags: Tags, cluster_id: str | None) -> Tags:
    """Return all tags of a new volume; what the class says changes none of the controller's own."""
    marks = {TAG_VOLUME_NAME: write_name(name), TAG_DRIVER: "true", TAG_MADE_BY: MADE_BY}
    if cluster_id is not None:
        marks[name_cluster_tag(cluster_id)] = "owned"
    made = tuple(sorted({**dict(tags), **marks}.items()))
    if len(made) > MOST_TAGS:
        raise InvalidValueError(
            f"The volume {quote(name)} would have {len(made)} tags, and EC2 takes {MOST_TAGS}.",
            hint=f"{len(marks)} of them are the controller's own: set fewer in the class.",
        )
    for key, value in made:
        check_tag(key, value, f"the volume {quote(name)}")
    return made


def check_tag(key: str, value: str, what: str) -> None:
    """Raise InvalidValueError where EC2 does not take a tag for its length."""
    if not 0 < len(key) <= LONGEST_KEY or len(value) > LONGEST_VALUE:
        raise InvalidValueError(
            f"The tag {quote(key)} of {what} is too long, or has no name.",
            hint=f"EC2 takes {LONGEST_KEY} characters of a tag's key, and {LONGEST_VALUE} of its value.",
        )


def is_own_tag(key: str) -> bool:
    """Return whether volumes are found by the tag, or deleted for it, so that no class may change it."""
    return key in {TAG_VOLUME_NAME, TAG_DRIVER, TAG_MADE_BY} or key.startswith("kubernetes.io/")


def require_marks(volume: CloudVolume, cluster_id: str | None) -> None:
    """Raise RefusedError unless the volume was made for a claim, by this agent or by AWS's driver.

    ``cluster_id``: it must not be another one's; None: of whichever cluster it is.
    """
    is_drivers = volume.tag(TAG_DRIVER) == "true" and volume.tag(TAG_VOLUME_NAME) is not None
    policy_claim = volume.tag(TAG_CLAIM)
    if policy_claim is not None and not is_drivers:
        raise RefusedError(
            f"{volume.volume_id} was made for {quote(policy_claim)} of the nodes' policy, as its tags say, "
            "and is not deleted.",
            hint="Give its PersistentVolume the reclaim policy Retain: the policy says what becomes of it.",
        )
    require_own(volume.volume_id, volume.tags, cluster_id)
    if not volume.is_made_by_agent and not is_drivers:
        raise RefusedError(
            f"{volume.volume_id} was not made for Kubernetes, as its tags say, and is not deleted.",
            hint="Give its PersistentVolume the reclaim policy Retain. Or tag the volume "
            f"{TAG_MADE_BY}={MADE_BY} and {TAG_DRIVER}=true; then it may be deleted.",
        )
