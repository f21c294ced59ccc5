"""The plugin as kubelet has it: its services, each at the socket that kubelet asks for it at."""

from __future__ import annotations

from collections.abc import Callable, Collection

import anyio
from msgspec import Struct, field

from agent.csi.service.answering import Answering, CountCall, count_nothing
from agent.csi.service.identity import IdentityService, Plugin
from agent.csi.service.join import Joining
from agent.csi.service.parse_paths import KubeletPaths
from agent.csi.service.registration import Registration, RegistrationService
from agent.csi.service.serve import ROOT_ONLY, serve_calls
from agent.csi.sockets.keep_sockets import Listeners
from agent.csi.sockets.kubelet_root import Places
from agent.csi.wire.csi_grpc import NodeBase

MakeNode = Callable[[Callable[[], KubeletPaths], Joining, Answering], NodeBase]
"""Makes the Node service, of the paths that kubelet may name and of what answers and joins its calls."""


class NodePlugin(Struct, frozen=True):
    """What is served to kubelet, whose root it calls ``kubelet_root`` in the paths that it names."""

    plugin: Plugin
    make_node: MakeNode
    kubelet_root: str
    is_ready: Callable[[], bool]
    tell_registration: Callable[[Registration], None]
    count: CountCall = count_nothing
    allowed_uids: Collection[int] = ROOT_ONLY
    joining: Joining = field(default_factory=Joining)

    @property
    def is_busy(self) -> bool:
        """Something that kubelet asked for is under way."""
        return self.joining.is_busy

    async def serve(self, listeners: Listeners) -> None:
        """Answer at both sockets until cancelled; the plugin's own first, since kubelet asks it at once."""
        roots = tuple(dict.fromkeys((self.kubelet_root, listeners.places.root)))
        paths = KubeletPaths(roots)
        driver = self.plugin.driver
        endpoint = Places(self.kubelet_root, driver).endpoint
        answering = Answering(self.count)
        async with self.joining as joining, anyio.create_task_group() as tasks:
            services = (
                IdentityService(self.plugin, answering, self.is_ready),
                self.make_node(lambda: paths, joining, answering),
            )
            registration = RegistrationService(driver, str(endpoint), answering, self.tell_registration)
            await tasks.start(serve_calls, listeners.endpoint, services, self.allowed_uids)
            await tasks.start(serve_calls, listeners.registration, (registration,), self.allowed_uids)
