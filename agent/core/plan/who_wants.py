"""Who wants a volume, and where that is changed: in the policy, or in a PersistentVolume. Pure.

Messages name them, since nobody mends in the policy what a PersistentVolume says.
"""

from __future__ import annotations

from agent.core.model import FsType, Wanted


def name_wanter(wanted: Wanted) -> str:
    """Return who wants it, as the subject of a sentence."""
    return "its PersistentVolume" if wanted.is_kubelets else "the policy"


def explain_type(wanted: Wanted, found: FsType | str) -> str:
    """Return how a volume is used with the filesystem that it has."""
    if wanted.is_kubelets:
        return f"Say fsType: {found} in the PersistentVolume, made anew for that, to use it as it is."
    return f"Say type: {found} in the policy to use it as it is."


def name_type_field(wanted: Wanted) -> str:
    """Return what the type of the filesystem is written under."""
    return "fsType" if wanted.is_kubelets else "type"


def explain_read_only(wanted: Wanted) -> str:
    """Return where it is said that a volume is only read, as part of a sentence."""
    if wanted.is_kubelets:
        return "say ReadOnlyMany as the access mode of its PersistentVolume"
    return "put ro in the policy"


def explain_format(wanted: Wanted) -> str:
    """Return how a volume gets its filesystem that may not be made."""
    if wanted.is_kubelets:
        return (
            "It is used read-only, or its attributes keep it from being formatted: ebs-agent/format, or"
            " ebs-agent/source, which says that it is a copy and should hold something."
        )
    return "Say format: if-blank in its filesystem entry to have it formatted if it is proven blank."


def explain_path(wanted: Wanted) -> str:
    """Return how a volume is mounted whose path is taken."""
    if wanted.is_kubelets:
        return "Free the path; kubelet asks again by itself."
    return "Free the path, or give the volume another one in the policy."


def explain_raw(wanted: Wanted) -> str:
    """Return how a volume is used that is to be raw, and is mounted."""
    if wanted.is_kubelets:
        return "Unmount it there, or say volumeMode: Filesystem in its PersistentVolume."
    return "Unmount it there, or give it a filesystem entry in the policy."


def explain_leaving_alone(wanted: Wanted) -> str:
    """Return how the agent is to leave a volume alone, as the beginning of a sentence."""
    return "Give no pod the volume" if wanted.is_kubelets else "Keep the volume out of the policy"
