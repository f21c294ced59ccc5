"""A controller: one host's association with one volume, made of an admin queue and I/O queues.

Owns what lives as long as the association: its number, properties, features, keep alive timer, and which
connection carries which queue. When it ends, every command it brought is abandoned before anything else may
happen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from tests.ebs import admin, fabrics
from tests.ebs.clock import now_us
from tests.ebs.errors import CommandError, Status
from tests.ebs.fabrics import Connect, Properties
from tests.ebs.pdu import DATA_HEADER_BYTES, RESPONSE_BYTES
from tests.ebs.request import Request
from tests.ebs.volume import Volume

_NOT_HELD = frozenset({admin.KEEP_ALIVE, admin.EVENT_REQUEST})


class QueueConnection(Protocol):
    """What a controller asks of the connection that carries one of its queues."""

    def close(self, reason: str) -> None: ...

    def find_request(self, command_id: int) -> Request | None: ...


class Controller:
    """One host's controller of a volume. ``ended`` is called once, when its admin queue is gone."""

    def __init__(
        self,
        controller_id: int,
        volume: Volume,
        connect: Connect,
        ended: Callable[[Controller], None],
    ) -> None:
        self.controller_id = controller_id
        self.volume = volume
        self.connect = connect
        self.state = admin.AdminState(connect, connect.keep_alive_ms)
        self.last_command_us = now_us()
        self._ended = ended
        self._properties = Properties()
        self._queues: dict[int, QueueConnection] = {}
        self._keep_alive: asyncio.TimerHandle | None = None
        self._watch_keep_alive()

    @property
    def name(self) -> str:
        return f"{self.volume.record.volume_id} controller {self.controller_id}"

    def add_queue(self, queue_id: int, connection: QueueConnection) -> None:
        if queue_id in self._queues:
            raise CommandError(Status.SEQUENCE_ERROR)
        self._queues[queue_id] = connection

    def remove_queue(self, queue_id: int) -> None:
        """Forget a queue whose connection is gone; without its admin queue the controller ends."""
        self._queues.pop(queue_id, None)
        if queue_id == 0:
            self.end("its admin queue is gone")

    def end(self, reason: str) -> None:
        """Close every queue. Safe to call twice."""
        if self._keep_alive is not None:
            self._keep_alive.cancel()
            self._keep_alive = None
        queues, self._queues = self._queues, {}
        for connection in queues.values():
            connection.close(reason)
        self._ended(self)

    def submit(self, request: Request) -> None:
        """Take a command of an I/O queue."""
        self.last_command_us = request.arrived_us
        if request.is_fabrics:
            raise CommandError(Status.INVALID_OPCODE)
        if not self._properties.is_enabled:
            raise CommandError(Status.SEQUENCE_ERROR)
        self.volume.submit(request)

    def submit_admin(self, request: Request) -> None:
        """Take a command of the admin queue, which a stall of admin commands may hold."""
        self.last_command_us = request.arrived_us
        if (
            request.is_fabrics
            or request.opcode in _NOT_HELD
            or not self.volume.hold_admin(lambda: self._answer(request))
        ):
            self._answer(request)

    def announce_change(self) -> None:
        """Raise the namespace-changed event, on which Linux reads the size anew."""
        self.state.has_changed_namespace = True
        admin.announce_change(self.state)

    def _answer(self, request: Request) -> None:
        if request.is_abandoned:
            return
        try:
            reply = self._answer_fabrics(request) if request.is_fabrics else self._answer_admin(request)
        except CommandError as error:
            request.finish(error.status, result=error.result)
            return
        if reply is None:
            return
        if reply.page is None or not request.sgl_bytes:
            request.finish(result=reply.result)
            return
        # Exactly what the host has room for: Linux takes a short transfer for a broken controller.
        size_bytes = request.sgl_bytes
        page = reply.page[:size_bytes].ljust(size_bytes, b"\0")
        request.finish_with_data(bytearray(DATA_HEADER_BYTES) + page + bytearray(RESPONSE_BYTES), size_bytes)

    def _answer_admin(self, request: Request) -> admin.Reply | None:
        """Return the answer, or None where it was given already or comes later."""
        if request.opcode == admin.KEEP_ALIVE:
            return admin.Reply()
        if not self._properties.is_enabled:
            raise CommandError(Status.SEQUENCE_ERROR)
        if request.opcode == admin.IDENTIFY:
            return admin.answer_identify(request, self.volume.record, self.controller_id)
        if request.opcode == admin.GET_LOG_PAGE:
            reply = admin.answer_get_log_page(request, self.state, self.volume.pack_statistics)
            admin.announce_change(self.state)
            return reply
        if request.opcode == admin.SET_FEATURES:
            reply = admin.answer_set_features(request, self.state)
            self._watch_keep_alive()
            admin.announce_change(self.state)
            return reply
        if request.opcode == admin.GET_FEATURES:
            return admin.answer_get_features(request, self.state)
        if request.opcode == admin.EVENT_REQUEST:
            admin.take_event_request(request, self.state)
            admin.announce_change(self.state)
            return None
        if request.opcode == admin.ABORT:
            return admin.Reply(result=0 if self._abort(request) else 1)
        raise CommandError(Status.INVALID_OPCODE)

    def _answer_fabrics(self, request: Request) -> admin.Reply | None:
        if request.fabrics_type == fabrics.PROPERTY_GET:
            return admin.Reply(result=self._properties.get(request))
        if request.fabrics_type != fabrics.PROPERTY_SET:
            raise CommandError(Status.INVALID_OPCODE)
        self._properties.set(request)
        if not self._properties.is_enabled:
            self.state = admin.AdminState(self.connect, self.state.keep_alive_ms)
        if not self._properties.wants_shutdown:
            return admin.Reply()
        # "Shut down" is a promise that everything is durable: keep it before saying so.
        self.volume.sync_soon(lambda is_durable: self._finish_shutdown(request, is_durable=is_durable))
        return None

    def _finish_shutdown(self, request: Request, *, is_durable: bool) -> None:
        if is_durable:
            self._properties.finish_shutdown()
            request.finish()
        else:
            request.finish(Status.INTERNAL_ERROR)

    def _abort(self, request: Request) -> bool:
        queue = self._queues.get(request.cdw10 & 0xFFFF)
        target = queue.find_request(request.cdw10 >> 16) if queue else None
        return target is not None and self.volume.abort(target)

    def _watch_keep_alive(self) -> None:
        """Start the timer anew: a host that says nothing for so long is gone, whatever TCP says."""
        if self._keep_alive is not None:
            self._keep_alive.cancel()
            self._keep_alive = None
        if self.state.keep_alive_ms:
            loop = asyncio.get_running_loop()
            self._keep_alive = loop.call_later(self.state.keep_alive_ms / 1000, self._check_keep_alive)

    def _check_keep_alive(self) -> None:
        loop = asyncio.get_running_loop()
        timeout_s = self.state.keep_alive_ms / 1000
        silent_s = loop.time() - self.last_command_us / 1_000_000
        if silent_s >= timeout_s:
            self._keep_alive = None
            self.end(f"the host sent nothing for {silent_s:.0f} s")
        else:
            self._keep_alive = loop.call_later(timeout_s - silent_s, self._check_keep_alive)
