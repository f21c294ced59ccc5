"""aiomqtt's client, except that it has the event loop watch no socket that is closed already.

aiomqtt gives a socket's *number* to the loop one turn later, when paho may have found the broker gone and
closed it. At best the loop then reports an error. At worst the number is another socket's by now: the loop
calls paho whenever that one can be written to, and no socket that gets the number later can be watched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiomqtt
from typing_extensions import override

if TYPE_CHECKING:
    import paho.mqtt.client as paho
    from aiomqtt.types import PahoSocket


class Client(aiomqtt.Client):
    """A connection to a broker."""

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
