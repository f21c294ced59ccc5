"""The policy's ``agent`` section: how the agent itself runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

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
    Section,
    Text,
    Topic,
    refuse,
)

MQTT_TLS_PORT = 8883
"""Registered for MQTT over TLS."""

KUBELET_ROOT = "/var/lib/kubelet"
"""Unless its --root-dir says otherwise."""


def _check_grace(seconds: float) -> float:
    if not 60 <= seconds <= 365 * 86400:  # noqa: PLR2004 - a minute to a year
        raise refuse("The grace period is not possible.", "Choose from 1m to 365d.")
    return seconds


def _check_resync(seconds: float) -> float:
    if not 1 <= seconds <= 86400:  # noqa: PLR2004 - a day
        raise refuse("The resync interval is not possible.", "Choose from 1s to 1d.")
    return seconds


def _check_interval(seconds: float) -> float:
    if not 1 <= seconds <= 3600:  # noqa: PLR2004 - EBS's statistics are renewed once a second
        raise refuse("The health interval is not possible.", "Choose from 1s to 1h.")
    return seconds


class ServerTls(Section):
    """Certificates of the HTTP server."""

    cert: FilePath
    """PEM file of the server's certificate and chain."""
    key: FilePath
    """PEM file of its private key."""
    client_ca: FilePath | None = None
    """PEM file of the authority whose clients are let in; without it anyone is."""


class HttpSettings(Section):
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


class MqttTls(Section):
    """TLS towards the MQTT broker; without keys, the system's authorities are trusted."""

    ca: FilePath | None = None
    """PEM file of the authority the broker's certificate comes from."""
    cert: FilePath | None = None
    """PEM file of a client certificate, with ``key``."""
    key: FilePath | None = None
    """PEM file of the client certificate's private key."""


class MqttSettings(Section):
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


class HealthSettings(Section):
    """How closely volumes are watched."""

    interval_s: Annotated[DurationSeconds, AfterValidator(_check_interval)] = Field(
        default=15.0, alias="interval", json_schema_extra={"default": "15s"}
    )
    """How often each volume is sampled."""
    write_probe: Flag = False
    """Try each filesystem that is to be written to with a file that has no name, every time."""


class CloudSettings(Section):
    """What the agent may ask of AWS."""

    enabled: AutoFlag = Field(default=None, json_schema_extra={"default": "auto"})
    """auto: where credentials are found and an entry needs AWS."""
    attach_api: Literal["auto", "hyperpod", "ec2", "none"] = "auto"
    """Which API attaches and detaches: HyperPod's, EC2's, or none."""
    cluster: Name | None = None
    """Off HyperPod: the nodes that share what is claimed per: cluster; HyperPod's own cluster goes first."""
    grace_s: Annotated[DurationSeconds, AfterValidator(_check_grace)] = Field(
        default=86400.0, alias="grace", json_schema_extra={"default": "1d"}
    )
    """How long a volume whose claim is gone is kept before on_delete has it deleted."""
    release_on: tuple[Literal["spot-interruption", "power-off"], ...] = ()
    """When every volume is unmounted, flushed and detached: as AWS takes a Spot instance back, as the machine
    is powered off; a reboot is neither."""
    format_without_origin_after_s: PatienceSeconds = Field(
        default=300.0, alias="format_without_origin_after", json_schema_extra={"default": "5m"}
    )
    """How long a blank volume waits for AWS to say what it was made from, or never to go without that."""


class CsiSettings(Section):
    """The Kubernetes face: volumes of pods, asked for by kubelet."""

    enabled: AutoFlag = Field(default=None, json_schema_extra={"default": "auto"})
    """auto: where kubelet's root directory is; true: a node without one is told as well; false: nowhere."""
    driver: DriverName = "ebs.csi.hyperpod-agent"
    """Name of the driver in Kubernetes; ebs.csi.aws.com serves volumes whose controller is AWS's."""
    kubelet_root: KubeletRoot = Field(default=None, json_schema_extra={"default": "auto"})
    """kubelet's root directory, as its --root-dir has it; auto: /var/lib/kubelet."""
    attach_limit: AttachLimit = Field(default=None, json_schema_extra={"default": "auto"})
    """How many volumes the scheduler may place on the node; auto: what the instance has room for."""
    reserved: Reserved = 0
    """Attachments of the node that are kept free for others, such as another driver."""
    zone: ZoneName = Field(default=None, json_schema_extra={"default": "auto"})
    """The node's zone as the cluster's account calls it; auto: as AWS tells it."""
    policy_volumes: Flag = True
    """Serve the policy's own volumes to pods as well, by the driver policy.ebs.csi.hyperpod-agent."""

    @property
    def root(self) -> str:
        """The root directory of kubelet, as kubelet writes it."""
        return self.kubelet_root or KUBELET_ROOT


class AgentSettings(Section):
    """How the agent itself runs."""

    http: HttpSettings = Field(default_factory=HttpSettings)
    """The HTTP server."""
    mqtt: MqttSettings | None = None
    """Publish to MQTT; without it nothing is."""
    health: HealthSettings = Field(default_factory=HealthSettings)
    """How closely volumes are watched."""
    cloud: CloudSettings = Field(default_factory=CloudSettings)
    """What the agent may ask of AWS."""
    csi: CsiSettings | None = None
    """Serve volumes of pods to kubelet; without it nothing is."""
    allowed_roots: tuple[RootPath, ...] = ("/data", "/mnt")
    """Mount paths lie beneath one of these."""
    resync_s: Annotated[DurationSeconds, AfterValidator(_check_resync)] = Field(
        default=60.0, alias="resync", json_schema_extra={"default": "60s"}
    )
    """How often to look at every volume even if nothing was heard of it."""
