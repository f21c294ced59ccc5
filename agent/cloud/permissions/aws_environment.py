"""Which of a process's environment decides how AWS is reached, told without a secret in it."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

NOT_SHOWN = "set, not shown"

_PLAIN = frozenset(
    {
        "AWS_CA_BUNDLE",
        "AWS_CONFIG_FILE",
        "AWS_DEFAULT_PROFILE",
        "AWS_DEFAULT_REGION",
        "AWS_EC2_METADATA_DISABLED",
        "AWS_MAX_ATTEMPTS",
        "AWS_METADATA_SERVICE_NUM_ATTEMPTS",
        "AWS_METADATA_SERVICE_TIMEOUT",
        "AWS_PROFILE",
        "AWS_REGION",
        "AWS_RETRY_MODE",
        "AWS_ROLE_ARN",
        "AWS_SHARED_CREDENTIALS_FILE",
        "AWS_STS_REGIONAL_ENDPOINTS",
        "AWS_USE_DUALSTACK_ENDPOINT",
        "AWS_USE_FIPS_ENDPOINT",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "NO_PROXY",
        "REQUESTS_CA_BUNDLE",
        "SAGEMAKER_RESOURCE_CONFIG_PATH",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
    }
)
"""What holds no secret; whatever else begins with AWS_ may be one."""
_ADDRESSES = frozenset(
    {
        "ALL_PROXY",
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        "EBS_AGENT_CLOUD_ENDPOINT",
        "HTTP_PROXY",
        "HTTPS_PROXY",
    }
)
"""Addresses, which may hold a user and a password."""
_ENDPOINT = "AWS_ENDPOINT_URL"
_MOST_SHOWN = 200


def describe_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return, by name, what is set of all that decides how AWS is reached; secrets as ``NOT_SHOWN``."""
    return {name: _show(name, value) for name, value in sorted(environment.items()) if _decides(name)}


def _decides(name: str) -> bool:
    upper = name.upper()
    return upper in _PLAIN or upper in _ADDRESSES or name.startswith("AWS_")


def _show(name: str, value: str) -> str:
    upper = name.upper()
    if upper in _ADDRESSES or upper.startswith(_ENDPOINT):
        return _show_address(value)
    if upper not in _PLAIN or not value.isprintable():
        return NOT_SHOWN
    return value if len(value) <= _MOST_SHOWN else f"{value[:_MOST_SHOWN]}…"


def _show_address(value: str) -> str:
    """Return host and port of an address, without anything that may be a secret."""
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return NOT_SHOWN
    is_torn = "@" in value and "@" not in parts.netloc  # a password with a slash in it, say
    if not host or is_torn or not value.isprintable() or len(value) > _MOST_SHOWN:
        return NOT_SHOWN
    user = "…@" if "@" in parts.netloc else ""
    scheme = f"{parts.scheme}://" if parts.scheme else ""
    where = f"[{host}]" if ":" in host else host
    return f"{scheme}{user}{where}{'' if port is None else f':{port}'}"
