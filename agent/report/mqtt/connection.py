"""How a node connects to its MQTT broker: under which topics, as whom, and with what limits."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agent.base.log import get_logger
from agent.core.model import NodeFacts, VolumeId
from agent.policy.settings import MqttSettings
from agent.report.mqtt.login import NO_LOGIN, Login
from agent.report.mqtt.outbox import MAX_PAYLOAD_BYTES, Topics
from agent.report.mqtt.retained import MOST_VOLUMES

if TYPE_CHECKING:
    import aiomqtt

OFFLINE = b"offline"
CONNECT_TIMEOUT_S = 20.0
KEEPALIVE_S = 60
"""AWS IoT Core takes 30 s to 20 minutes. A node that vanished is offline after one and a half of it."""
MAX_TOPIC_BYTES = 256
"""Of AWS IoT Core; the longest of ours ends with a volume ID."""
MAX_CLIENT_ID_BYTES = 128

MAX_HEARD, MAX_HEARD_BYTES = 64, MAX_PAYLOAD_BYTES + 1024
"""Of what a broker retains: messages that wait to be looked at, and what one has with its topic."""


_NOT_IN_A_LEVEL = re.compile(r"[^A-Za-z0-9_.:@=,-]")

log = get_logger(__name__)


def choose_topics(topic: str, facts: NodeFacts, host_name: str) -> Topics:
    """Return this node's topics. Where it does not know its name in a cluster its host name stands for it."""
    cluster = _make_level(facts.cluster_id or "no-cluster")
    instance = _make_level(facts.instance_name or facts.instance_id or host_name)
    return Topics(f"{topic}/{cluster}/{instance}")


def _make_level(text: str) -> str:
    """Return ``text`` as one level of a topic: no slash, no wildcard, nothing a broker would object to."""
    return _NOT_IN_A_LEVEL.sub("_", text)[:64] or "_"


def make_client(
    settings: MqttSettings,
    topics: Topics,
    login: Login = NO_LOGIN,
    *,
    is_listener: bool = False,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> aiomqtt.Client:
    """Return a client that is not connected yet. ``is_listener``: one to ask the broker, not to publish."""
    import aiomqtt  # noqa: PLC0415 -- memory that only those who use it pay for

    from agent.report.mqtt.client import MAX_MESSAGES, MAX_PACKET_BYTES, Client  # noqa: PLC0415 -- likewise

    if len(topics.volume(VolumeId("vol-0123456789abcdef0")).encode()) > MAX_TOPIC_BYTES:
        log.warning("mqtt.topic_long", topic=topics.base, limit_bytes=MAX_TOPIC_BYTES)
    identifier = f"{topics.base}/listener" if is_listener else topics.base
    return Client(
        settings.host,
        settings.port,
        username=settings.username,
        password=login.password,
        identifier=identifier[-MAX_CLIENT_ID_BYTES:],
        will=None if is_listener else aiomqtt.Will(topics.status, OFFLINE, qos=1, retain=True),
        tls_context=login.tls,
        keepalive=KEEPALIVE_S,
        timeout=timeout_s,
        max_queued_incoming_messages=MAX_HEARD if is_listener else 1,
        max_packet_bytes=MAX_HEARD_BYTES if is_listener else MAX_PACKET_BYTES,
        max_messages=MOST_VOLUMES + MAX_HEARD if is_listener else MAX_MESSAGES,
    )
