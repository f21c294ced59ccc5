"""Reads the controller's options: from words to what the program is run with. Raises InvalidValueError."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from agent.controller.care.settings import CareSettings, is_in_cluster
from agent.controller.program import ControllerSettings
from agent.controller.service.parse_tags import parse_extra_tags
from agent.core.errors import InvalidValueError
from agent.core.quoting import quote
from agent.core.replace import replace

_DRIVER = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,61}[a-z0-9])?", re.ASCII)
_REGION = re.compile(r"[a-z]{2}(?:-[a-z0-9]+)+-[0-9]", re.ASCII)
_CLUSTER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", re.ASCII)
_UNIX = "unix://"
_CLOUD_ENDPOINTS = ("EBS_AGENT_CLOUD_ENDPOINT", "AWS_ENDPOINT_URL")
"""Variables that name where all of AWS answers, for an emulated cloud."""


def read_settings(
    *,
    endpoint: str,
    driver: str,
    region: str | None,
    cluster_id: str | None,
    extra_tags: str,
    metrics_port: int | None,
    environment: Mapping[str, str],
) -> ControllerSettings:
    """Return what the options say, and of the environment where an emulated cloud is."""
    return ControllerSettings(
        endpoint=parse_endpoint(endpoint),
        driver=_match("--driver", driver, _DRIVER, "It is a DNS name of 63 characters at most."),
        region=parse_region(region),
        cluster_id=None
        if cluster_id is None
        else _match("--cluster-id", cluster_id, _CLUSTER_ID, "It has letters, digits and -_. only."),
        extra_tags=parse_extra_tags(extra_tags),
        metrics_port=metrics_port,
        cloud_endpoint=find_cloud_endpoint(environment),
    )


def read_care(
    settings: ControllerSettings,
    kubeconfig: Path | None,
    environment: Mapping[str, str],
    *,
    releases_dead_nodes: bool,
) -> ControllerSettings:
    """Return the settings with the care for the cluster that a kubeconfig names, or whose pod this is.

    Outside of a cluster, and with no kubeconfig, there is none to care for.
    """
    if kubeconfig is None and not is_in_cluster(environment):
        if releases_dead_nodes:
            raise InvalidValueError(
                "The option --release-dead-nodes needs a cluster, and this is no pod of one.",
                hint="Give --kubeconfig, too.",
            )
        return settings
    care = CareSettings(
        settings.driver, settings.region, kubeconfig, settings.cluster_id, releases_dead_nodes
    )
    return replace(settings, care=care)


def parse_region(region: str | None) -> str:
    """Return AWS's region, which has to be said."""
    return _match("--region", region or "", _REGION, "Set it, or AWS_REGION: us-east-1.")


def parse_endpoint(text: str) -> Path:
    """Return where the socket is to be: ``unix:///csi/csi.sock``, or the path alone."""
    path = Path(text.removeprefix(_UNIX))
    if not path.is_absolute() or path.name in {"", ".."}:
        raise InvalidValueError(
            f"The option --endpoint cannot be {quote(text)}.", hint="Write it so: unix:///csi/csi.sock."
        )
    return path


def find_cloud_endpoint(environment: Mapping[str, str]) -> str | None:
    """Return where all of AWS answers instead of AWS: an emulated cloud; None where nothing says so."""
    return next((environment[name] for name in _CLOUD_ENDPOINTS if environment.get(name)), None)


def _match(option: str, text: str, pattern: re.Pattern[str], hint: str) -> str:
    if not pattern.fullmatch(text):
        raise InvalidValueError(f"The option {option} cannot be {quote(text)}.", hint=hint)
    return text
