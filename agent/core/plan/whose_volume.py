"""Whose a volume is: what the node shows of it, and what its tags say. What is not ours is not touched.

An entry that names a volume says itself whose it is, so data on it is used without asking AWS: a node must
start where AWS does not answer. One that means a volume by its size or device name may mean the CSI driver's,
which only its tags tell. Until they are known nothing is done with it for such an entry: it is not checked,
formatted, mounted or exposed. What is mounted or exposed already stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.model import Exclusion, Reason
from agent.core.steps import Refuse, Wait

if TYPE_CHECKING:
    from datetime import datetime

    from agent.core.model import Observed, Wanted


def find_exclusion(observed: Observed, wanted: Wanted | None = None) -> Exclusion | None:
    """Return why the volume is not the agent's to touch: by what the node shows of it, or by its tags.

    Tags of the EBS CSI driver say that it is Kubernetes', for which kubelet asks the agent.
    """
    if observed.exclusion is not None or observed.origin is None:
        return observed.exclusion
    if not observed.origin.is_csi or (wanted is not None and wanted.is_kubelets):
        return None
    return Exclusion(
        Reason.MANAGED_BY_CSI,
        f"{observed.volume_id} belongs to the EBS CSI driver, by its tags.",
        hint="Leave the volume to Kubernetes, or remove its tags once Kubernetes has let go of it.",
    )


def find_raw_exclusion(observed: Observed, wanted: Wanted | None) -> Exclusion | None:
    """Return why a raw volume is not the agent's to touch."""
    # What a raw volume holds, and who builds on it, is its owner's business; whose it is, is not.
    exclusion = find_exclusion(observed, wanted)
    return None if exclusion is not None and exclusion.reason is Reason.DEVICE_BUSY else exclusion


def refuse_excluded(exclusion: Exclusion) -> Refuse:
    """Return the step that says so."""
    return Refuse(exclusion.reason, exclusion.message, exclusion.hint)


def find_wait_for_owner(observed: Observed, wanted: Wanted) -> Wait | None:
    """Return what is waited for before a volume that the entry does not name is touched."""
    if not (wanted.is_broad and observed.is_origin_awaited):
        return None
    return Wait(
        Reason.WAITING_FOR_CLOUD,
        f"Whose {observed.volume_id} is, is not known: its tags are asked of AWS{tell_since(observed)}, since"
        f" the entry {wanted.name!r} does not name it.",
        hint=f"It is used {tell_until(observed)}. An entry with its match.volume_id waits for no tags.",
    )


def tell_since(observed: Observed) -> str:
    """Return since when AWS is asked about a volume, for the end of a clause."""
    return "" if observed.awaited_since is None else f" since {_show_time(observed.awaited_since)}"


def tell_until(observed: Observed) -> str:
    """Return when the waiting for AWS's answer ends, as a clause."""
    answered = "once AWS has answered, or has said that it will not"
    if observed.awaited_until is None:
        return answered
    return f"{answered}, and at {_show_time(observed.awaited_until)} whatever is known then"


def _show_time(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
