"""A fleet as Prometheus knows it: asks its HTTP API, follows no redirect, and reads no more than a bound."""

from __future__ import annotations

import json
import math
import ssl
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from urllib.parse import SplitResult, urlencode

import msgspec

from agent.cli.fleet.rows import MOST_BYTES as MOST_SIZE
from agent.cli.fleet.rows import MOST_NODES, MOST_REASONS, MOST_VOLUMES, OFFLINE, Row, cut, fit_share
from agent.core.errors import AgentError, ExitCode

ANSWER_S = 60.0
WHOLE_ANSWER_S = 300.0
"""For all of one answer, however it trickles in."""
MOST_BYTES = 64 << 20
"""Of one answer; those of 20 000 volumes are 5 MB."""

_WITH_ANSWER = {HTTPStatus.OK, HTTPStatus.BAD_REQUEST, 422, HTTPStatus.SERVICE_UNAVAILABLE}
"""With these Prometheus' answer says itself what it is."""

_BY = "cluster, node, instance, volume_id"
QUERIES = {
    "conditions": f"max by ({_BY}, condition) (ebs_agent_volume_condition{{%s}} == 1)",
    "problems": f"max by ({_BY}, reason) (ebs_agent_volume_problem{{%s}})",
    "names": f"max by ({_BY}, name, mountpoint) (ebs_agent_volume_info{{%s}})",
    "used": f"max by ({_BY}) (1 - ebs_agent_filesystem_avail_bytes{{%s}} / ebs_agent_filesystem_size_bytes)",
    "sizes": f"max by ({_BY}) (ebs_agent_volume_size_bytes{{%s}})",
    "down": 'max by (cluster, node, instance) (up{job="ebs-agent"%s} == 0)',
}


class _Series(msgspec.Struct):
    metric: dict[str, str]
    value: tuple[float, str]


class _Data(msgspec.Struct):
    result: list[_Series]


class _Answer(msgspec.Struct):
    status: str
    data: _Data | None = None
    error: str | None = None


@dataclass(frozen=True)
class Prometheus:
    """Where it is, and as whom it is asked."""

    url: SplitResult
    tls: ssl.SSLContext | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    def list_rows(self, cluster: str | None = None) -> Iterator[Row]:
        """Yield every volume, and every node that does not answer. Raises AgentError; blocks."""
        matcher = "" if cluster is None else f"cluster={json.dumps(cluster, ensure_ascii=False)}"
        asked = {
            name: self._ask(query % (f",{matcher}" if name == "down" and matcher else matcher))
            for name, query in QUERIES.items()
        }
        reasons: dict[tuple[str, ...], list[str]] = {}
        for one in asked["problems"]:
            of_volume = reasons.setdefault(_key(one), [])
            if len(of_volume) < MOST_REASONS:
                of_volume.append(cut(one.metric.get("reason", "")))
        names = {_key(one): one.metric for one in asked["names"]}
        used = {_key(one): _read_number(one, fit_share) for one in asked["used"]}
        sizes = {_key(one): _read_number(one, _fit_size) for one in asked["sizes"]}
        for one in asked["down"][:MOST_NODES]:
            yield Row(*_place(one), None, OFFLINE, is_online=False)
        for one in asked["conditions"][:MOST_VOLUMES]:
            key = _key(one)
            size = sizes.get(key)
            known = names.get(key, {})
            yield Row(
                *_place(one),
                cut(one.metric.get("volume_id", "")),
                cut(one.metric.get("condition", "")),
                cut(known.get("name", "")) or None,
                tuple(sorted(reasons.get(key, ()))),
                path=cut(known.get("mountpoint", "")) or None,
                used=used.get(key),
                size_bytes=None if size is None else int(size),
            )

    def _ask(self, query: str) -> list[_Series]:
        try:
            status, content = self._post(urlencode({"query": query}))
            if status not in _WITH_ANSWER:
                raise self._refuse(f"it answered {status}")
            answer = msgspec.json.decode(content, type=_Answer)
        except (OSError, HTTPException, msgspec.DecodeError, RecursionError, ValueError) as error:
            raise self._refuse(str(error) or type(error).__name__) from error
        if answer.status != "success" or answer.data is None:
            raise self._refuse(cut(answer.error or f"it answered {status} without a result"))
        return answer.data.result

    def _post(self, body: str) -> tuple[int, bytes]:
        host, port = self.url.hostname or "", self.url.port
        connection = (
            HTTPConnection(host, port or 80, timeout=ANSWER_S)
            if self.tls is None
            else HTTPSConnection(host, port or 443, timeout=ANSWER_S, context=self.tls)
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        elif self.username is not None:
            both = f"{self.username}:{self.password or ''}".encode()
            headers["Authorization"] = f"Basic {b64encode(both).decode()}"
        try:
            connection.request("POST", f"{self.url.path.rstrip('/')}/api/v1/query", body, headers)
            response = connection.getresponse()
            return response.status, _read_bounded(response)
        finally:
            connection.close()

    def _refuse(self, why: str) -> AgentError:
        return AgentError(
            f"Prometheus at {self.url.hostname} cannot be asked: {why}.",
            hint="The address is that of its pages, as https://prometheus.example/prefix.",
            exit_code=ExitCode.NO_ANSWER,
        )


def _key(one: _Series) -> tuple[str, ...]:
    return one.metric.get("instance", ""), one.metric.get("volume_id", "")


def _read_bounded(response: HTTPResponse) -> bytes:
    content, end_at = bytearray(), time.monotonic() + WHOLE_ANSWER_S
    while came := response.read1(1 << 20):
        content += came
        if len(content) > MOST_BYTES:
            raise ValueError(f"it answers with more than {MOST_BYTES} bytes")
        if time.monotonic() > end_at:
            raise ValueError(f"its answer was not whole after {WHOLE_ANSWER_S:.0f} s")
    if response.length:
        raise IncompleteRead(b"", response.length)
    return bytes(content)


def _read_number(one: _Series, fit: Callable[[float], float | None]) -> float | None:
    """Return a number; None where it is none, or none that can be shown."""
    try:
        number = float(one.value[1])
    except ValueError:
        return None
    return fit(number) if math.isfinite(number) else None


def _fit_size(size_bytes: float) -> float | None:
    return size_bytes if 0 <= size_bytes < MOST_SIZE else None


def _place(one: _Series) -> tuple[str, str]:
    """Return the cluster and the node: the target's label, else its address."""
    metric = one.metric
    return cut(metric.get("cluster", "")), cut(metric.get("node") or metric.get("instance", ""))
