"""moto's volumes and modifications with what happens to them in time, and the attachments moto has not.

Everything here is a question of a clock: a volume is being made, attached or modified until some second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from moto.core.utils import utcnow
from moto.ec2.models.elastic_block_store import Volume, VolumeModification
from typing_extensions import override

NEVER = float("inf")


@dataclass
class Pace:
    """How long AWS takes, in seconds of ``clock``; zero makes everything happen at once."""

    create_s: float = 0.0
    attach_s: float = 0.0
    detach_s: float = 0.0
    modify_s: float = 0.0
    optimize_s: float = 0.0
    modifications_a_day: int = 4
    """That EC2 takes of one volume within any 24 hours."""
    modification_fault: str | None = None
    """Why modifications end as failed, having changed nothing."""
    lag_s: float = 0.0
    """What EC2 describes is how things were so long ago."""
    clock: Callable[[], float] = time.monotonic


@dataclass
class EmulatedAttachment:
    """One attachment; moto's serializer reads its attributes under the names of the service model."""

    volume_id: str
    device: str | None
    instance_id: str | None
    associated_resource: str | None
    holder: str
    pace: Pace
    instance: Any = None
    """moto's own, where that has it."""
    ready_at_s: float = field(init=False)
    leaves_at_s: float = NEVER
    is_busy: bool = False
    """It was asked to leave while it is in use, and does not."""
    attach_time: Any = field(default_factory=utcnow)
    delete_on_termination: bool = False

    def __post_init__(self) -> None:
        self.ready_at_s = self.pace.clock() + self.pace.attach_s

    def leave(self) -> None:
        """Begin to detach."""
        self.leaves_at_s = self.pace.clock() + self.pace.detach_s

    @property
    def cluster_arn(self) -> str | None:
        """The cluster whose node has it, where that is HyperPod's."""
        resource = self.associated_resource
        return None if resource is None else resource.removesuffix(f"-{self.holder}")

    @property
    def is_gone(self) -> bool:
        return not self.is_busy and self.pace.clock() >= self.leaves_at_s

    @property
    def state(self) -> str:
        if self.leaves_at_s < NEVER:
            return "busy" if self.is_busy else "detaching"
        return "attached" if self.pace.clock() >= self.ready_at_s else "attaching"


class EmulatedVolume(Volume):
    """moto's volume with several attachments and a creation that takes time."""

    pace: Pace
    usable_at_s: float
    held: list[EmulatedAttachment]
    source_volume_id: str | None
    """The volume it is a copy of; moto's serializer tells it under its name in the service model."""

    @classmethod
    def adopt(cls, volume: Any, pace: Pace) -> None:
        """Give a volume moto just made the behaviour it lacks."""
        volume.__class__ = cls
        volume.pace = pace
        volume.usable_at_s = pace.clock() + pace.create_s
        volume.source_volume_id = None
        volume.hold([])

    @property
    def emulated(self) -> list[EmulatedAttachment]:
        """The attachments to nodes of the cluster, those that have left aside."""
        if any(one.is_gone for one in self.held):
            self.hold([one for one in self.held if not one.is_gone])
        return self.held

    @property
    @override
    def attachments(self) -> list[Any]:
        return list(self.emulated) or super().attachments  # EC2's own attach is moto's

    def hold(self, attachments: list[EmulatedAttachment]) -> None:
        self.held = attachments
        self.attachment = attachments[0] if attachments else None  # type: ignore[assignment]  # quacks

    @override
    def get_filter_value(self, filter_name: str, method_name: str | None = None) -> Any:
        if filter_name == "attachment.instance-id":  # which EC2 shows of its own instances only
            return [one.instance_id for one in self.attachments if one.instance_id is not None]
        return super().get_filter_value(filter_name, method_name)

    def drop(self, holder: str) -> None:
        """Let go of an instance at once."""
        self.hold([one for one in self.emulated if one.holder != holder])

    @property
    @override
    def status(self) -> str:
        if self.pace.clock() < self.usable_at_s:
            return "creating"
        return "in-use" if self.attachments else "available"


class EmulatedModification(VolumeModification):
    """moto's modification with the states AWS goes through."""

    began_s: float
    pace: Pace
    status_message: str | None

    @classmethod
    def adopt(cls, modification: Any, pace: Pace) -> None:
        """Let a modification moto just completed take its time, or come to nothing."""
        modification.__class__ = cls
        modification.began_s = pace.clock()
        modification.pace = pace
        modification.status_message = pace.modification_fault
        if modification.status_message is not None:
            for name in ("size", "volume_type", "iops", "throughput"):
                before = getattr(modification, f"original_{name}")
                if before is not None:
                    setattr(modification.volume, name, before)

    @property
    def took_s(self) -> float:
        return self.pace.clock() - self.began_s

    @property
    @override
    def modification_state(self) -> str:
        if self.took_s < self.pace.modify_s:
            return "modifying"
        if self.status_message is not None:
            return "failed"
        return "optimizing" if self.took_s < self.pace.modify_s + self.pace.optimize_s else "completed"

    @property
    @override
    def progress(self) -> int:
        whole_s = self.pace.modify_s + self.pace.optimize_s
        return 100 if whole_s <= 0 else min(100, int(100 * self.took_s / whole_s))
