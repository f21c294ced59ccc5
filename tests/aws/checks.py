"""EBS's status checks of the emulated volumes, which moto has not: how each is, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

from tests.aws.errors import CallError

_ID = re.compile(r"vol-(?:[0-9a-f]{8}|[0-9a-f]{17})")


@dataclass
class StatusOfVolume:
    """What DescribeVolumeStatus says of one volume."""

    status: str = "ok"
    io_enabled: str = "passed"
    io_performance: str = "normal"
    progress: int | None = None
    left_s: int = 0
    kind: str = "default"
    events: tuple[tuple[str, str], ...] = ()
    """(type, description)"""


@dataclass
class StatusChecks:
    """The checks of one cloud's volumes; those not named are well."""

    by_volume: dict[str, StatusOfVolume] = field(default_factory=dict)
    page: int = 1000
    """Volumes of one page."""

    def describe(self, parameters: Mapping[str, Any], volumes: Mapping[str, Any]) -> str:
        """Return what the answer to DescribeVolumeStatus holds, as XML; CallError where EC2 refuses."""
        asked = [value for name, value in parameters.items() if name.startswith("VolumeId.")]
        if parameters.get("DryRun") == "true":
            raise CallError("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        if asked and "MaxResults" in parameters:
            message = "The parameter volumeSet cannot be used with the parameter maxResults"
            raise CallError("InvalidParameterCombination", message)
        for volume_id in asked:
            if not _ID.fullmatch(volume_id):
                raise CallError("InvalidVolumeID.Malformed", f"Invalid id: {volume_id!r}")
            if volume_id not in volumes:
                raise CallError("InvalidVolume.NotFound", f"The volume '{volume_id}' does not exist.")
        wanted = asked or list(volumes)
        begin = int(parameters.get("NextToken") or 0)
        items = "".join(self._show(one, volumes[one]) for one in wanted[begin : begin + self.page])
        following = begin + self.page
        token = f"<nextToken>{following}</nextToken>" if following < len(wanted) else ""
        return f"<volumeStatusSet>{items}</volumeStatusSet>{token}"

    def _show(self, volume_id: str, volume: Any) -> str:
        one = self.by_volume.get(volume_id, StatusOfVolume())
        details = {"io-enabled": one.io_enabled, "io-performance": one.io_performance}
        if one.progress is not None:
            details["initialization-state"] = "completed" if one.progress == 100 else "initializing"
        shown = "".join(f"<item><name>{n}</name><status>{s}</status></item>" for n, s in details.items())
        events = "".join(
            f"<item><eventId>evol-1</eventId><eventType>{kind}</eventType>"
            f"<description>{escape(text)}</description></item>"
            for kind, text in one.events
        )
        coming = ""
        if one.progress is not None:
            coming = (
                f"<initializationStatusDetails><initializationType>{one.kind}</initializationType>"
                f"<progress>{one.progress}</progress><estimatedTimeToCompleteInSeconds>{one.left_s}"
                "</estimatedTimeToCompleteInSeconds></initializationStatusDetails>"
            )
        return (
            f"<item><volumeId>{volume_id}</volumeId><availabilityZone>{volume.zone.name}</availabilityZone>"
            f"<volumeStatus><status>{one.status}</status><details>{shown}</details></volumeStatus>"
            f"<eventsSet>{events}</eventsSet><actionsSet/>{coming}</item>"
        )
