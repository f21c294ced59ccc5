"""What contradicts what within one entry, class or section of a policy whose single values are sound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from ipaddress import ip_address

from msgspec import Struct

from agent.core.model import LABEL_LIMIT_BYTES, FormatRule
from agent.core.quoting import quote
from agent.core.suggestions import hint_at_known
from agent.core.units import GIB, TIB, format_size
from agent.policy.entries import Claim, VolumeClass, VolumeEntry
from agent.policy.settings import AgentSettings, MqttSettings
from agent.policy.values.mkfs_options import find_refused_options
from agent.policy.values.mount_options import find_contradictions
from agent.policy.values.mount_path import find_obstacle
from agent.policy.yaml.problems import Loc

_SIZE_LIMITS: Mapping[str, tuple[int, int]] = {
    "gp2": (GIB, 16 * TIB),
    "gp3": (GIB, 64 * TIB),
    "io1": (4 * GIB, 16 * TIB),
    "io2": (4 * GIB, 64 * TIB),
    "st1": (125 * GIB, 16 * TIB),
    "sc1": (125 * GIB, 16 * TIB),
    "standard": (GIB, TIB),
}
"""EC2's, by type. Limits of IOPS and throughput are EC2's to say: they have changed before."""
_IOPS_TYPES = frozenset({"gp3", "io1", "io2"})
_MULTI_ATTACH_TYPES = frozenset({"io1", "io2"})


class Defect(Struct, frozen=True):
    """One thing wrong at ``loc``: with a value, or with several together, which are the places it rests on.

    Where one of those was itself wrong, so that a default stands in for it, the defect may not be true.
    """

    loc: Loc
    message: str
    hint: str | None = None
    rests_on: tuple[Loc, ...] = ()
    at_key: bool = False

    def place_in(self, base: Loc) -> Defect:
        """Return the defect with its places relative to ``base`` made absolute."""
        rests_on = tuple((*base, *loc) for loc in self.rests_on)
        return Defect((*base, *self.loc), self.message, self.hint, rests_on, self.at_key)


# -- One section by itself -----------------------------------------------------------------------------------


def check_settings(agent: AgentSettings) -> Iterator[Defect]:
    """Find contradictions in the ``agent`` section."""
    if agent.mqtt is None:
        return
    if not _is_host(agent.mqtt.host):
        yield Defect(
            ("mqtt", "host"),
            f"{quote(agent.mqtt.host, 40)} is no host name or address.",
            "One is broker.example.com: parts of 63 characters at most, none of them empty.",
        )
    tls = agent.mqtt.tls
    if tls is not None and (tls.cert is None) != (tls.key is None):
        yield Defect(("mqtt", "tls"), "A client certificate needs both cert and key.", at_key=True)
    if agent.mqtt.password_file is not None and not agent.mqtt.uses_tls and not _is_loopback(agent.mqtt):
        yield Defect(
            ("mqtt", "password_file"),
            "The password would cross the network in the clear.",
            "Add tls: {}, or use port 8883.",
            rests_on=(("mqtt", "tls"), ("mqtt", "port"), ("mqtt", "host")),
        )


def _is_host(text: str) -> bool:
    """Tell whether a name can be looked up at all, or is an address."""
    try:
        text.encode("idna")  # as the resolver is asked
    except UnicodeError:
        return False
    return text.isprintable() and not set(text) & set(" /@")


def _is_loopback(mqtt: MqttSettings) -> bool:
    try:
        return ip_address(mqtt.host).is_loopback
    except ValueError:
        return mqtt.host == "localhost"


def check_class(volume_class: VolumeClass) -> Iterator[Defect]:
    """Find contradictions in one class."""
    chosen, on_type = volume_class.type, (("type",),)
    if volume_class.iops is not None and volume_class.iops_per_gib is not None:
        yield Defect(("iops_per_gib",), "iops is given too.", "Keep one of them.", at_key=True)
    for key in ("iops", "iops_per_gib"):
        if getattr(volume_class, key) is not None and chosen not in _IOPS_TYPES:
            yield Defect((key,), f"The IOPS of {chosen} volumes cannot be chosen.", "Remove it.", on_type)
    if chosen in _MULTI_ATTACH_TYPES and volume_class.iops is None and volume_class.iops_per_gib is None:
        on_iops = (("type",), ("iops",), ("iops_per_gib",))
        yield Defect(("type",), f"{chosen} volumes need iops or iops_per_gib.", None, on_iops)
    if volume_class.throughput is not None and chosen != "gp3":
        message = f"The throughput of {chosen} volumes cannot be chosen."
        yield Defect(("throughput",), message, "Only gp3 has one to choose.", on_type)
    if volume_class.multi_attach and chosen not in _MULTI_ATTACH_TYPES:
        message = f"{chosen} volumes cannot be attached to several instances."
        yield Defect(("multi_attach",), message, "Only io1 and io2 can.", on_type)
    if volume_class.kms_key_id is not None and volume_class.encrypted is False:
        yield Defect(("kms_key_id",), "A key is given and encrypted is false.", rests_on=(("encrypted",),))


def check_volume(entry: VolumeEntry, *, says_freeze: bool) -> Iterator[Defect]:
    """Find contradictions in one entry. ``says_freeze``: its ``snapshots.freeze`` is not just the default."""
    yield from _check_source(entry)
    yield from _check_use(entry)
    if entry.filesystem is not None:
        yield from _check_filesystem(entry)
    if entry.mount is not None:
        for index, message in find_contradictions(entry.mount.options):
            yield Defect(("mount", "options", index), message)
    if entry.snapshots is not None:
        yield from _check_snapshots(entry, says_freeze=says_freeze)


def _check_source(entry: VolumeEntry) -> Iterator[Defect]:
    on_both: tuple[Loc, ...] = (("match",), ("claim",))
    if entry.match is None and entry.claim is None:
        hint = "Add match for a volume that exists, or claim for one the agent makes."
        yield Defect((), "The entry says of no volume.", hint, on_both)
    if entry.match is None:
        return
    of_volume = [
        field.name
        for field in fields(entry.match)
        if field.name != "instance_group" and getattr(entry.match, field.name) is not None
    ]
    if entry.claim is not None and of_volume:
        hint = "Beside claim, match may hold instance_group alone."
        yield Defect(("claim",), "The entry has match too.", hint, on_both, at_key=True)
    if entry.claim is None and not of_volume:
        hint = "Add volume_id, device_name, size, tags or type."
        yield Defect(("match",), "This would match every volume.", hint, on_both, at_key=True)
    if entry.match.tags is not None and not entry.match.tags:
        yield Defect(("match", "tags"), "There is no tag in it.", "Add one, or remove tags.")


def _check_use(entry: VolumeEntry) -> Iterator[Defect]:
    used = ("filesystem", "mount", "block")
    on_use: tuple[Loc, ...] = tuple((key,) for key in used)
    if entry.block is not None:
        others = [key for key in ("filesystem", "mount") if getattr(entry, key) is not None]
        if others:
            message = f"The entry has {' and '.join(others)} too."
            hint = "Keep block for a raw volume, or filesystem and mount."
            yield Defect(("block",), message, hint, on_use, at_key=True)
        if entry.grow:
            message = "A raw volume has no filesystem to grow."
            yield Defect(("grow",), message, "Remove grow.", on_use)
    elif entry.filesystem is None and entry.mount is None:
        hint = "Add filesystem and mount, or block."
        yield Defect((), "The entry does not say how the volume is used.", hint, on_use)
    elif entry.filesystem is None:
        yield Defect(("mount",), "The entry has no filesystem.", "Add filesystem.type.", on_use, at_key=True)
    elif entry.mount is None:
        yield Defect(("filesystem",), "The entry has no mount.", "Add mount.path.", on_use, at_key=True)


def _check_filesystem(entry: VolumeEntry) -> Iterator[Defect]:
    filesystem = entry.filesystem
    if filesystem is None:
        return
    on_type: tuple[Loc, ...] = (("filesystem", "type"),)
    limit = LABEL_LIMIT_BYTES[filesystem.type]
    if filesystem.label is not None and len(filesystem.label.encode()) > limit:
        message = f"A label of {filesystem.type} has {limit} characters at most."
        yield Defect(("filesystem", "label"), message, None, on_type)
    for index, message in find_refused_options(filesystem.type, filesystem.mkfs_options):
        yield Defect(("filesystem", "mkfs_options", index), message, None, on_type)
    is_copy = entry.claim is not None and entry.claim.source is not None
    if is_copy and filesystem.format is not FormatRule.NEVER:
        message = "A volume made from a snapshot or another volume is never formatted."
        yield Defect(("filesystem", "format"), message, "Say format: never.", (("claim",),))


def _check_snapshots(entry: VolumeEntry, *, says_freeze: bool) -> Iterator[Defect]:
    if entry.snapshots is None:
        return
    if entry.block is not None and entry.snapshots.freeze and says_freeze:
        message = "A raw volume has no filesystem to freeze."
        yield Defect(("snapshots", "freeze"), message, "Say freeze: false.", (("block",),))


# -- Between sections ----------------------------------------------------------------------------------------


def check_path(entry: VolumeEntry, agent: AgentSettings) -> Iterator[Defect]:
    """Find an entry's mount path that may not be used."""
    if entry.mount is None:
        return
    obstacle = find_obstacle(entry.mount.path, agent.allowed_roots)
    if obstacle is not None:
        hint = "Choose another path, or add its parent to agent.allowed_roots."
        yield Defect(("mount", "path"), f"{quote(entry.mount.path, 80)} cannot be used: {obstacle}.", hint)


def check_claim(entry: VolumeEntry, classes: Mapping[str, VolumeClass]) -> Iterator[Defect]:
    """Find what an entry's claim and its class contradict each other in."""
    claim = entry.claim
    if claim is None:
        return
    if claim.size_bytes is None and claim.source is None:
        yield Defect(("claim",), "The claim has no size.", "Add size, as in 500GiB.", at_key=True)
    if claim.unheld_limit_s is not None and (claim.on_delete == "retain" or claim.per == "cluster"):
        where = ("claim", "per") if claim.per == "cluster" else ("claim", "on_delete")
        message = "Volumes of this claim are never deleted, so delete_unheld_after says nothing."
        hint = "Leave it out, or say on_delete: snapshot or delete, of a claim per node."
        yield Defect(("claim", "delete_unheld_after"), message, hint, (where,))
    volume_class = classes.get(claim.class_name)
    if volume_class is None:
        known = hint_at_known(claim.class_name, sorted(classes), "The classes are")
        hint = known if classes else "Add it under classes."
        yield Defect(("claim", "class"), f"There is no class {quote(claim.class_name)}.", hint)
        return
    yield from _check_size(claim, volume_class)
    if volume_class.iops_per_gib is not None and claim.size_bytes is None and claim.source is not None:
        message = f"Class {claim.class_name!r} counts IOPS by the GiB, and the claim has no size."
        hint = "Add size: that of what it is made from, or a bigger one. Or give the class iops."
        yield Defect(("claim",), message, hint, (("claim", "class"), ("claim", "size")), at_key=True)
    if volume_class.multi_attach and entry.block is None:
        message = f"Volumes of class {claim.class_name!r} can be attached to several instances: raw use only."
        hint = "A filesystem on two instances is destroyed. Use block, or a class without multi_attach."
        yield Defect(("claim", "class"), message, hint, (("block",),))
    if volume_class.initialization_rate is not None and claim.snapshot_id is None:
        what = "an empty volume" if claim.source is None else "a copy of a volume"
        message = f"Class {claim.class_name!r} has initialization_rate, and the claim is of {what}."
        yield Defect(("claim", "class"), message, "Only volumes made from a snapshot are filled at a rate.")


def _check_size(claim: Claim, volume_class: VolumeClass) -> Iterator[Defect]:
    fault = None if claim.size_bytes is None else find_size_fault(claim.size_bytes, volume_class.type)
    if fault is not None:
        yield Defect(("claim", "size"), fault, None, (("claim", "class"),))


def find_size_fault(size_bytes: int, volume_type: str) -> str | None:
    """Return what is wrong with a size for a type of volume; nothing for a type that is not known."""
    low, high = _SIZE_LIMITS.get(volume_type, (0, size_bytes))
    if low <= size_bytes <= high:
        return None
    return f"A {volume_type} volume has {format_size(low)} to {format_size(high)}."
