"""How filters and tags are written in a request to EC2."""

from __future__ import annotations

from typing import Any

from agent.cloud.aws.call import SentAs
from agent.cloud.aws.models import Tags

Filters = tuple[tuple[str, tuple[str, ...]], ...]


class Pattern(str):
    """A filter's value in which ``*`` and ``?`` are EC2's wildcards; all others are meant literally."""

    __slots__ = ()


def write_filters(filters: Filters) -> list[dict[str, Any]]:
    """Return filters as a request has them, each value meant literally unless it is a pattern."""
    return [{"Name": name, "Values": [_quote(value) for value in wanted]} for name, wanted in filters]


def _quote(value: str) -> str:
    """Return a filter's value so that EC2 takes it literally: unquoted, ``*`` and ``?`` are wildcards there.

    Source: the EC2 API reference, ``Filter``: a backslash before a special character escapes it.
    """
    if isinstance(value, Pattern):
        return str(value)
    return "".join(f"\\{character}" if character in "\\*?" else character for character in value)


def filtered_by(name: str) -> SentAs:
    """Return how values of one filter are sent."""
    return SentAs("Filters", lambda wanted: write_filters(((name, wanted),)))


def write_tags(tags: Tags) -> list[dict[str, str]]:
    """Return tags as a request has them."""
    return [{"Key": key, "Value": value} for key, value in tags]


def write_tags_of(resource: str) -> SentAs:
    """Return how tags are sent that a resource of this kind gets as it is made."""

    def write(tags: Tags) -> list[dict[str, Any]]:
        return [{"ResourceType": resource, "Tags": write_tags(tags)}] if tags else []

    return SentAs("TagSpecifications", write)
