"""aiomqtt's client, except for two things it does with its sockets, and with a limit to what it takes.

It gives a socket's *number* to the event loop one turn later, when paho may have found the broker gone and
closed it. At best the loop then reports an error. At worst the number is another socket's by now: the loop
calls paho whenever that one can be written to, and no socket that gets the number later can be watched.

A connection that did not come about in time, or was given up on the way, it leaves open, and pings on: each
further attempt would add one, and the last will of each would say that the node is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from paho.mqtt.enums import MQTTErrorCode
from typing_extensions import Self, override

from agent.report.mqtt.lean_paho import aiomqtt

if TYPE_CHECKING:
    import paho.mqtt.client as paho
    from aiomqtt.types import PahoSocket


MAX_PACKET_BYTES = 4096
"""Of what a broker sends. All that is asked of it is to say in a few bytes that it has something; MQTT lets
it announce 256 MiB, which would be kept until they are complete."""
MAX_MESSAGES = 1
"""Of a connection that publishes, and so has none to get: by the first one it is left, politely, which takes
time, and the second one ends it."""


class Client(aiomqtt.Client):
    """A connection to a broker."""

    def __init__(
        self,
        *args: Any,
        max_packet_bytes: int = MAX_PACKET_BYTES,
        max_messages: int = MAX_MESSAGES,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self._messages_left = max_messages
        bound_packets(self._client, max_packet_bytes, lambda: self._messages_left < 0)

    @override
    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        """Keep a message that there is room for; of the others not even a word, since they may be endless."""
        self._messages_left -= 1
        if not self._queue.full():
            super()._on_message(client, userdata, message)

    @override
    async def __aenter__(self) -> Self:
        """Connect; whatever keeps that from ending well, nothing of the connection stays."""
        # It ends with why the connection did, and nobody may be left to ask.
        self._disconnected.add_done_callback(_heed)
        # A part of it runs in a thread that nothing ends, so it goes on to its end in a task of its own.
        connecting = asyncio.ensure_future(super().__aenter__())
        try:
            return await asyncio.shield(connecting)
        except BaseException:
            connecting.add_done_callback(self._leave)
            raise
        finally:
            del connecting  # which the error leads to: a circle would keep a socket that paho dropped open

    def _leave(self, connecting: asyncio.Future[Self]) -> None:
        _heed(connecting)
        self._client.disconnect()

    @override
    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: PahoSocket) -> None:
        """Have ``loop_write`` called when the socket takes more; paho may ask from a thread."""

        def write() -> None:
            try:
                client.loop_write()
            except Exception as error:  # noqa: BLE001 -- as aiomqtt does: it means that the connection broke
                if not self._disconnected.done():
                    self._disconnected.set_exception(error)

        def watch() -> None:
            if sock.fileno() >= 0:
                self._loop.add_writer(sock.fileno(), write)

        self._loop.call_soon_threadsafe(watch)


def bound_packets(
    client: paho.Client, most_bytes: int = MAX_PACKET_BYTES, is_enough: Callable[[], bool] = lambda: False
) -> None:
    """Have a connection end with the first packet that is longer than any that is asked for, or is enough."""
    read = client._packet_read  # noqa: SLF001 -- paho 2.1 has no limit of its own for MQTT 3.1.1

    def read_bounded() -> MQTTErrorCode:
        result = read()
        is_long = client._in_packet["remaining_length"] > most_bytes  # noqa: SLF001 -- likewise
        return MQTTErrorCode.MQTT_ERR_PROTOCOL if is_long or is_enough() else result

    client._packet_read = read_bounded  # type: ignore[method-assign]  # noqa: SLF001 -- likewise


def _heed(future: asyncio.Future[Any]) -> None:
    """Have asyncio not complain that nobody asked what a future ended with."""
    if not future.cancelled():
        future.exception()
