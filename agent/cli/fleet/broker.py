"""A fleet as a broker retains it: connects, and hears what it asked for. Publishes nothing."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiomqtt
import anyio
from typing_extensions import override

from agent.cli.fleet.rows import MOST_TEXT, RetainedFleet
from agent.core.errors import AgentError, ExitCode, InvalidValueError
from agent.policy.settings import MqttSettings
from agent.report.mqtt.client import Client
from agent.report.mqtt.connection import MAX_CLIENT_ID_BYTES, MAX_HEARD_BYTES
from agent.report.mqtt.login import Login, read_login

if TYPE_CHECKING:
    import paho.mqtt.client as paho

CONNECT_S = 20.0
QUIET_S = 1.5
"""After which a broker has no more to tell: what it retains it sends at once."""
LIMIT_S = 60.0


class _Complaints(logging.Handler):
    """Keeps the library's last complaint, which tells more of a refused connection than its error does."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last: str | None = None

    @override
    def emit(self, record: logging.LogRecord) -> None:
        self.last = record.getMessage()[:MOST_TEXT]


class _Listener(Client):
    """Hands each message to the fleet as it comes: none waits, so none is dropped."""

    def __init__(self, fleet: RetainedFleet, settings: MqttSettings, login: Login) -> None:
        identifier = f"{settings.topic}/fleet-{secrets.token_hex(4)}"
        self.complaints = _Complaints()
        logger = logging.Logger("fleet")  # noqa: LOG001 -- nobody else's: what it hears is told in the error
        logger.addHandler(self.complaints)
        super().__init__(
            settings.host,
            settings.port,
            logger=logger,
            username=settings.username,
            password=login.password,
            identifier=identifier[-MAX_CLIENT_ID_BYTES:],
            tls_context=login.tls,
            timeout=CONNECT_S,
            max_packet_bytes=MAX_HEARD_BYTES,
        )
        self._fleet = fleet

    @override
    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        self._fleet.hear(topic, bytes(message.payload))

    def check(self) -> None:
        """Raise MqttError where the connection has ended."""
        if self._disconnected.done():
            self._disconnected.result()
            raise aiomqtt.MqttError("the connection was closed")


@asynccontextmanager
async def listening(
    settings: MqttSettings, cluster: str | None = None
) -> AsyncIterator[Callable[[], RetainedFleet]]:
    """Give what returns the fleet as the broker says it is, once all that it retains is in.

    Raises AgentError, and so does what is given, once the connection has ended.
    """
    try:
        login = await read_login(settings)
    except AgentError as error:
        raise AgentError(
            error.message, hint="See --password-file, --ca, --cert and --key.", exit_code=error.exit_code
        ) from error
    if cluster is not None and set("/+#") & set(cluster):
        raise InvalidValueError(
            f"{cluster!r} is no cluster of a topic.", hint="docs/mqtt.md tells the topics."
        )
    fleet = RetainedFleet(settings.topic)
    level = "+" if cluster is None else cluster
    client = _Listener(fleet, settings, login)
    try:
        async with client:
            asked = [(f"{settings.topic}/{level}/+/{what}", 0) for what in ("status", "volumes/+")]
            codes = await client.subscribe(asked, timeout=CONNECT_S)
            if any(code >= 0x80 for code in map(_read_code, codes)):  # noqa: PLR2004 -- MQTT 3.1.1, 3.9.3
                raise _refuse(settings, "it does not let this user read the topic")
            await _hear_all(fleet)

            def get_fleet() -> RetainedFleet:
                client.check()
                return fleet

            yield get_fleet
    except (aiomqtt.MqttError, OSError, UnicodeError) as error:
        raise _refuse(settings, client.complaints.last or str(error)) from error


def _read_code(code: Any) -> int:
    return int(getattr(code, "value", code))


async def _hear_all(fleet: RetainedFleet) -> None:
    """Return once nothing more was heard for a while."""
    with anyio.move_on_after(LIMIT_S):
        heard = -1
        while heard != fleet.heard:
            heard = fleet.heard
            await anyio.sleep(QUIET_S)


def _refuse(settings: MqttSettings, why: str) -> AgentError:
    return AgentError(
        f"The broker {settings.host}:{settings.port} cannot be asked: {why}.",
        hint="mqtts:// is with TLS, mqtt:// without. Try it with: mosquitto_sub -v -t "
        f"'{settings.topic}/#' -h {settings.host} -p {settings.port}.",
        exit_code=ExitCode.NO_ANSWER,
    )
