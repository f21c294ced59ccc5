"""kubelet's registration: who the plugin behind a socket is, and what became of it.

kubelet asks for it whenever a socket appears in its plugins_registry, then asks the plugin who the node is,
writes both down in the cluster, and says here how that went; again and again while it goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable

from grpclib.server import Stream
from msgspec import Struct
from typing_extensions import override

from agent.core.quoting import fit
from agent.csi.service.answering import Answering
from agent.csi.wire import registration_pb2 as wire
from agent.csi.wire.registration_grpc import RegistrationBase

KIND = "CSIPlugin"
VERSIONS = ("1.0.0",)
"""Of CSI, as kubelet compares them: by their first number."""


class Registered(Struct, frozen=True):
    """kubelet takes the plugin for the driver's on this node."""

    driver: str


class RegistrationRefused(Struct, frozen=True):
    """kubelet does not take the plugin: pods with its volumes are not started on this node."""

    driver: str
    error: str
    """kubelet's own words, or the API server's."""
    remedy: str


Registration = Registered | RegistrationRefused

_REMEDIES = (
    (
        "not known yet",
        "kubelet asks again, and then the agent does. `ebs-agent doctor` shows what each source of it says.",
    ),
    (
        "already registered",
        (
            "Another plugin of this name is on the node, as the DaemonSet of AWS's driver is."
            " Keep that off the node, or give the agent another name: agent.csi.driver in the policy."
        ),
    ),
    (
        "topology",
        (
            "A label of the node says another zone than the agent. Where the label is right, say so:"
            " agent.csi.zone in the policy. Else mend the label, or delete the Node: kubelet makes it anew."
        ),
    ),
    (
        "forbidden",
        "kubelet's own rights in the cluster do not reach: the node is to be in the group system:nodes.",
    ),
)


def find_remedy(error: str) -> str:
    """Return what a person can do about kubelet's error."""
    said = error.lower()
    known = (remedy for word, remedy in _REMEDIES if word in said)
    return next(known, "Look into kubelet's log and the agent's: journalctl -u kubelet -u ebs-agent.")


def say_again(driver: str, error: str | None) -> Registration:
    """Return what kubelet has said before: why it does not take the plugin (None: it does)."""
    return Registered(driver) if error is None else RegistrationRefused(driver, error, find_remedy(error))


class RegistrationService(RegistrationBase):
    """Answers that the plugin ``driver`` is at the socket ``endpoint``, and tells what becomes of it."""

    def __init__(
        self, driver: str, endpoint: str, answering: Answering, tell: Callable[[Registration], None]
    ) -> None:
        self._driver = driver
        self._endpoint = endpoint
        self._answering = answering
        self._tell = tell

    @override
    async def GetInfo(self, stream: Stream[wire.InfoRequest, wire.PluginInfo]) -> None:
        await self._answering.answer(stream, "GetInfo", self._describe)

    @override
    async def NotifyRegistrationStatus(
        self, stream: Stream[wire.RegistrationStatus, wire.RegistrationStatusResponse]
    ) -> None:
        await self._answering.answer(stream, "NotifyRegistrationStatus", self._note)

    async def _describe(self, _: wire.InfoRequest) -> wire.PluginInfo:
        return wire.PluginInfo(
            type=KIND, name=self._driver, endpoint=self._endpoint, supported_versions=VERSIONS
        )

    async def _note(self, status: wire.RegistrationStatus) -> wire.RegistrationStatusResponse:
        error = None if status.plugin_registered else fit(status.error, 500)
        self._tell(say_again(self._driver, error))
        return wire.RegistrationStatusResponse()
