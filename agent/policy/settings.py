"""The policy's ``agent`` section: how the agent itself runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from agent.core.errors import InvalidValueError
from agent.policy.values.annotations import Check, written
from agent.policy.values.csi_fields import AttachLimit, DriverName, KubeletRoot, Reserved, ZoneName
from agent.policy.values.fields import (
    AutoFlag,
    DurationSeconds,
    FilePath,
    Flag,
    Listen,
    Name,
    PatienceSeconds,
    Port,
    RootPath,
    Text,
    Topic,
)

MQTT_TLS_PORT = 8883
"""Registered for MQTT over TLS."""

KUBELET_ROOT = "/var/lib/kubelet"
"""Unless its --root-dir says otherwise."""


def _check_grace(seconds: float) -> float:
    if not 60 <= seconds <= 365 * 86400:  # noqa: PLR2004 - a minute to a year
        raise InvalidValueError("The grace period is not possible.", "Choose from 1m to 365d.")
    return seconds


def _check_resync(seconds: float) -> float:
    if not 1 <= seconds <= 86400:  # noqa: PLR2004 - a day
        raise InvalidValueError("The resync interval is not possible.", "Choose from 1s to 1d.")
    return seconds


def _check_interval(seconds: float) -> float:
    if not 1 <= seconds <= 3600:  # noqa: PLR2004 - EBS's statistics are renewed once a second
        raise InvalidValueError("The health interval is not possible.", "Choose from 1s to 1h.")
    return seconds


@dataclass(frozen=True, kw_only=True)
class ServerTls:
    """Certificates of the HTTP server."""

    cert: FilePath
    """PEM file of the server's certificate and chain."""
    key: FilePath
    """PEM file of its private key."""
    client_ca: FilePath | None = None
    """PEM file of the authority whose clients are let in; without it anyone is."""


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """The HTTP server: /metrics, /healthz and the status page."""

    listen: Listen = "127.0.0.1:9842"
    """Host and port; an IPv6 address in brackets."""
    tls: ServerTls | None = None
    """Serve HTTPS with these."""

    @property
    def host(self) -> str:
        """The host to listen on, an IPv6 address without its brackets."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])


@dataclass(frozen=True, kw_only=True)
class MqttTls:
    """TLS towards the MQTT broker; without keys, the system's authorities are trusted."""

    ca: FilePath | None = None
    """PEM file of the authority the broker's certificate comes from."""
    cert: FilePath | None = None
    """PEM file of a client certificate, with ``key``."""
    key: FilePath | None = None
    """PEM file of the client certificate's private key."""


@dataclass(frozen=True, kw_only=True)
class MqttSettings:
    """The MQTT broker that state and events are published to."""

    host: Text
    """Name or address of the broker."""
    port: Port = MQTT_TLS_PORT
    """8883 means TLS; any other port means TLS when ``tls`` is given."""
    tls: MqttTls | None = None
    """Use TLS, with these files."""
    username: Text | None = None
    """Name to log in with."""
    password_file: FilePath | None = None
    """File whose first line is the password."""
    topic: Topic = "ebs-agent"
    """First part of every topic."""

    @property
    def uses_tls(self) -> bool:
        return self.tls is not None or self.port == MQTT_TLS_PORT


@dataclass(frozen=True, kw_only=True)
class HealthSettings:
    """How closely volumes are watched."""

    interval_s: Annotated[DurationSeconds, Check(_check_interval)] = field(
        default=15.0, metadata=written("interval", default="15s")
    )
    """How often each volume is sampled."""
    write_probe: Flag = False
    """Try each filesystem that is to be written to with a file that has no name, every time."""


@dataclass(frozen=True, kw_only=True)
class CloudSettings:
    """What the agent may ask of AWS."""

    enabled: AutoFlag = field(default=None, metadata=written(default="auto"))
    """auto: where credentials are found and an entry needs AWS."""
    attach_api: Literal["auto", "hyperpod", "ec2", "none"] = "auto"
    """Which API attaches and detaches: HyperPod's, EC2's, or none."""
    cluster: Name | None = None
    """Off HyperPod: the nodes that share what is claimed per: cluster; HyperPod's own cluster goes first."""
    grace_s: Annotated[DurationSeconds, Check(_check_grace)] = field(
        default=86400.0, metadata=written("grace", default="1d")
    )
    """How long a volume whose claim is gone is kept before on_delete has it deleted."""
    release_on: tuple[Literal["spot-interruption", "power-off"], ...] = ()
    """When every volume is unmounted, flushed and detached: as AWS takes a Spot instance back, as the machine
    is powered off; a reboot is neither."""
    format_without_origin_after_s: PatienceSeconds = field(
        default=300.0, metadata=written("format_without_origin_after", default="5m")
    )
    """How long a blank volume waits for AWS to say what it was made from, or never to go without that."""


@dataclass(frozen=True, kw_only=True)
class CsiSettings:
    """The Kubernetes face: volumes of pods, asked for by kubelet."""

    enabled: AutoFlag = field(default=None, metadata=written(default="auto"))
    """auto: where kubelet's root directory is; true: a node without one is told as well; false: nowhere."""
    driver: DriverName = "ebs.csi.hyperpod-agent"
    """Name of the driver in Kubernetes; ebs.csi.aws.com serves volumes whose controller is AWS's."""
    kubelet_root: KubeletRoot = field(default=None, metadata=written(default="auto"))
    """kubelet's root directory, as its --root-dir has it; auto: /var/lib/kubelet."""
    attach_limit: AttachLimit = field(default=None, metadata=written(default="auto"))
    """How many volumes the scheduler may place on the node; auto: what the instance has room for."""
    reserved: Reserved = 0
    """Attachments of the node that are kept free for others, such as another driver."""
    zone: ZoneName = field(default=None, metadata=written(default="auto"))
    """The node's zone as the cluster's account calls it; auto: as AWS tells it."""
    policy_volumes: Flag = True
    """Serve the policy's own volumes to pods as well, by the driver policy.ebs.csi.hyperpod-agent."""

    @property
    def root(self) -> str:
        """The root directory of kubelet, as kubelet writes it."""
        return self.kubelet_root or KUBELET_ROOT


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """How the agent itself runs."""

    http: HttpSettings = field(default_factory=HttpSettings)
    """The HTTP server."""
    mqtt: MqttSettings | None = None
    """Publish to MQTT; without it nothing is."""
    health: HealthSettings = field(default_factory=HealthSettings)
    """How closely volumes are watched."""
    cloud: CloudSettings = field(default_factory=CloudSettings)
    """What the agent may ask of AWS."""
    csi: CsiSettings | None = None
    """Serve volumes of pods to kubelet; without it nothing is."""
    allowed_roots: tuple[RootPath, ...] = ("/data", "/mnt")
    """Mount paths lie beneath one of these."""
    resync_s: Annotated[DurationSeconds, Check(_check_resync)] = field(
        default=60.0, metadata=written("resync", default="60s")
    )
    """How often to look at every volume even if nothing was heard of it."""
