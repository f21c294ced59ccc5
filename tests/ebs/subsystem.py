"""A volume as hosts find it: a subsystem with a name, and a controller for each host.

Owns who may connect. A volume that is not multi-attach has one host. A host that connects anew has given up
its former controller, whose commands must be out of the way before the new one's arrive.
"""

from __future__ import annotations

import logging

from tests.ebs import fabrics
from tests.ebs.controller import Controller, QueueConnection
from tests.ebs.errors import CommandError, Status
from tests.ebs.fabrics import Connect, connect_data_error
from tests.ebs.volume import Volume

log = logging.getLogger(__name__)

_LAST_CONTROLLER_ID = 0xFFEF  # the specification keeps the numbers above


class Subsystem:
    """A volume as hosts find it: under its NQN, with a controller for each of them."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.nqn = volume.record.nqn
        self._controllers: dict[int, Controller] = {}
        self._last_id = 0

    @property
    def controllers(self) -> list[Controller]:
        return list(self._controllers.values())

    def open_queue(self, connect: Connect, connection: QueueConnection) -> Controller:
        """Return the controller the connection's queue belongs to; CommandError where it may not."""
        if self.volume.faults.is_cut_off:
            raise CommandError(Status.CONNECT_BUSY, is_final=False)
        controller = self._create(connect) if connect.queue_id == 0 else self._find(connect)
        controller.add_queue(connect.queue_id, connection)
        return controller

    def announce_change(self) -> None:
        for controller in self.controllers:
            controller.announce_change()

    def end(self, reason: str) -> None:
        for controller in self.controllers:
            controller.end(reason)

    def _create(self, connect: Connect) -> Controller:
        if connect.controller_id != fabrics.ANY_CONTROLLER:
            raise connect_data_error(16)
        record = self.volume.record
        for controller in self.controllers:
            if controller.connect.host_id == connect.host_id:
                if not record.has_paths:
                    controller.end("its host connected anew")
            elif not record.is_multi_attach:
                raise CommandError(Status.CONNECT_BUSY, is_final=False)
        self._last_id = self._last_id % _LAST_CONTROLLER_ID + 1
        controller = Controller(self._last_id, self.volume, connect, self._forget)
        self._controllers[controller.controller_id] = controller
        log.info("%s: controller %d of %s", self.volume.record.volume_id, self._last_id, connect.host_nqn)
        return controller

    def _find(self, connect: Connect) -> Controller:
        controller = self._controllers.get(connect.controller_id)
        if controller is None:
            raise connect_data_error(16)
        if controller.connect.host_nqn != connect.host_nqn:
            raise connect_data_error(512)
        return controller

    def _forget(self, controller: Controller) -> None:
        self._controllers.pop(controller.controller_id, None)
