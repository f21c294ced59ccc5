"""Kubernetes' API as the controller uses it: the only module that asks it, and says what went wrong.

``used`` tells what was asked; docs/controller-rbac.yaml allows that and no more, and a test compares them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import anyio
import httpx2
import msgspec
from lightkube import AsyncClient
from lightkube.config.client_adapter import verify_cluster
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.core.resource import GlobalResource, NamespacedResource, Resource, api_info
from lightkube.types import PatchType
from msgspec import Struct

from agent.controller.cluster.transport import ClosingTransport
from agent.core.errors import AgentError, InvalidValueError
from agent.core.quoting import quote

G = TypeVar("G", bound=GlobalResource)
N = TypeVar("N", bound=NamespacedResource)

Operations = Sequence[Mapping[str, Any]]
"""A JSON patch (RFC 6902)."""

CALL_TIMEOUT_S = 10.0
PAGE = 250
"""Objects of one answer: a few MB of nodes, which are read and let go."""
WATCH_S = 300
"""The API server ends a watch after it, and a new one begins where that ended."""
SILENCE_S = WATCH_S + 30.0
"""A watch that says nothing for as long has lost its connection and was not told."""

FORBIDDEN, NOT_FOUND, CONFLICT, GONE, UNPROCESSABLE, TOO_MANY = 403, 404, 409, 410, 422, 429
BAD_REQUEST, REQUEST_TIMEOUT = 400, 408
_PASSING = frozenset({0, REQUEST_TIMEOUT, GONE, TOO_MANY})
_OVERTAKEN = frozenset({NOT_FOUND, CONFLICT, UNPROCESSABLE})
"""How a change of an object is refused that is not as it was; a patch's test that fails is 422."""


@dataclass(eq=False)
class ClusterError(AgentError):
    """Kubernetes' API said no, or did not answer."""

    status: int = 0
    """HTTP's; 0: no answer came."""
    retry_after_s: float = 0.0

    @property
    def is_passing(self) -> bool:
        """Whoever asks again may be answered: none came, a list ran out of date, or the server is ill."""
        return self.status in _PASSING or self.status >= 500  # noqa: PLR2004 -- HTTP's own

    @property
    def is_overtaken(self) -> bool:
        """The object is not as it was when the change was decided on."""
        return self.status in _OVERTAKEN


class Asker(Struct, frozen=True):
    """Who asks, for what is said when it may not."""

    who: str
    rights: str
    """The file that has what it is to be allowed."""


CONTROLLER = Asker("the controller", "docs/controller-rbac.yaml")


class ClusterApi:
    """One connection, as one user."""

    def __init__(self, client: AsyncClient, asker: Asker) -> None:
        self._client = client
        self._asker = asker
        self.namespace: str = client.namespace or "default"
        """The controller's own, where it runs in one."""
        self.used: set[tuple[str, str, str]] = set()
        """(API group, resource, verb) of all that was asked."""

    async def list_all(self, kind: type[G], fields: Mapping[str, str] | None = None) -> tuple[str, list[G]]:
        """Return the list's version, and all objects of a kind, or those whose ``fields`` are as said."""
        with self._asking("list", kind):
            found = self._client.list(kind, chunk_size=PAGE, fields=dict(fields or {}) or None)
            objects = [one async for one in found]
            return found.resourceVersion, objects

    async def watch(
        self, kind: type[G], version: str, fields: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[str, G]]:
        """Yield (ADDED | MODIFIED | DELETED, object) of what happens after ``version``.

        Raises ClusterError when the watch is lost: all is to be listed anew then.
        """
        events = self._client.watch(
            kind, resource_version=version, server_timeout=WATCH_S, fields=dict(fields or {}) or None
        )
        told = aiter(events)
        while True:
            with self._asking("watch", kind):
                try:
                    with anyio.fail_after(SILENCE_S):
                        event = await anext(told)
                except (StopAsyncIteration, TimeoutError) as error:
                    raise ClusterError(f"The watch of {_name(kind)} fell silent.") from error
            yield event

    async def find(self, kind: type[G], name: str) -> G | None:
        """Return an object; None where there is none of the name."""
        try:
            with self._asking("get", kind, name):
                return await self._client.get(kind, name)
        except ClusterError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def find_in(self, kind: type[N], name: str, namespace: str) -> N | None:
        """Return an object of a namespace; None where there is none of the name."""
        try:
            with self._asking("get", kind, name):
                return await self._client.get(kind, name, namespace=namespace)
        except ClusterError as error:
            if error.status == NOT_FOUND:
                return None
            raise

    async def change(self, kind: type[G], name: str, operations: Operations) -> None:
        """Change an object by a JSON patch: all of it, or nothing."""
        with self._asking("patch", kind, name):
            await self._client.patch(kind, name, list(operations), patch_type=PatchType.JSON)

    async def list_in(self, kind: type[N], namespace: str) -> list[N]:
        """Return all objects of a kind in a namespace."""
        with self._asking("list", kind):
            return [one async for one in self._client.list(kind, namespace=namespace, chunk_size=PAGE)]

    async def create_global(self, made: GlobalResource, name: str) -> None:
        """Make an object that is in no namespace."""
        with self._asking("create", type(made), name):
            await self._client.create(made)

    async def delete(
        self, kind: type[Resource], name: str, uid: str, version: str, namespace: str | None = None
    ) -> None:
        """Ask for an object's end, unless it is another by now, or changed since it was read."""
        options = {"preconditions": {"uid": uid, "resourceVersion": version}}
        client: Any = self._client._client  # noqa: SLF001 -- its delete() knows no preconditions
        with self._asking("delete", kind, name):
            request = client.prepare_request("delete", kind, None, name, namespace)
            request.data = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
            client.raise_for_status(await client.send(client.build_adapter_request(request)))

    async def create(self, made: NamespacedResource, name: str) -> None:
        """Make an object in the namespace that it names."""
        with self._asking("create", type(made), name):
            await self._client.create(made)

    async def try_to_create(self, made: NamespacedResource, name: str) -> None:
        """Have all be asked that is asked before an object is made: quotas, limits, webhooks. Makes none."""
        with self._asking("create", type(made), name):
            await self._client.create(made, dry_run=True)

    async def replace(self, changed: NamespacedResource, name: str) -> None:
        """Write an object anew, unless it changed since it was read."""
        with self._asking("update", type(changed), name):
            await self._client.replace(changed)

    @contextmanager
    def _asking(self, verb: str, kind: type[Resource], name: str = "") -> Iterator[None]:
        """Raise what the client raises as ClusterError that names what was asked."""
        info = api_info(kind)
        self.used.add((info.resource.group, info.plural, verb))
        try:
            yield
        except httpx2.HTTPError as error:
            raise _explain(error, verb, f"{_name(kind)} {name}".rstrip(), self._asker) from error
        except msgspec.MsgspecError as error:
            raise ClusterError(
                f"What Kubernetes' API says of {_name(kind)} is not understood: {error}."
            ) from error
        except ConfigError as error:
            raise ClusterError(f"Kubernetes' API cannot be asked: {error}.") from error


@asynccontextmanager
async def connect(kubeconfig: Path | None, asker: Asker = CONTROLLER) -> AsyncIterator[ClusterApi]:
    """Give the API of the cluster that a kubeconfig names; None: of the one that this pod runs in."""
    try:
        found = KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_service_account()
        client = _declare_client(found.get())
    except (ConfigError, OSError, LookupError, ValueError) as error:
        where = quote(str(kubeconfig)) if kubeconfig else "a pod's service account"
        raise InvalidValueError(
            f"Kubernetes' API cannot be found by {where}: {error}.",
            hint="Run it in a pod with a service account, or give --kubeconfig.",
        ) from error
    async with client:
        yield ClusterApi(client, asker)


def _declare_client(config: SingleConfig | None) -> AsyncClient:
    if config is None:
        raise ConfigError("it names no cluster to use")
    trust = verify_cluster(config.cluster, config.user or User(), config.abs_file, trust_env=False)
    timeout = httpx2.Timeout(CALL_TIMEOUT_S)
    return AsyncClient(config=config, timeout=timeout, trust_env=False, transport=ClosingTransport(trust))


def _name(kind: type[Resource]) -> str:
    kind_name: str = api_info(kind).resource.kind
    return kind_name


def _explain(error: httpx2.HTTPError, verb: str, what: str, asker: Asker) -> ClusterError:
    """Return what went wrong, in the API server's words where it answered."""
    if isinstance(error, ApiError):
        said, status = error.status.message or "", error.status.code or 0
    elif isinstance(error, httpx2.HTTPStatusError):
        said, status = error.response.reason_phrase, error.response.status_code
    else:
        said, status = str(error) or type(error).__name__, 0
    if status in {401, 403}:
        hint = f"{asker.rights} has what {asker.who} is to be allowed."
        return ClusterError(
            f"Kubernetes does not let {asker.who} {verb} {what}: {said}.", hint, status=status
        )
    return ClusterError(
        f"Kubernetes' API was asked to {verb} {what}, and failed: {said}.",
        status=status,
        retry_after_s=_find_wait(error),
    )


def _find_wait(error: httpx2.HTTPError) -> float:
    """Return how long the API server says to wait (the header Retry-After, in seconds), where it does."""
    response = error.response if isinstance(error, httpx2.HTTPStatusError) else None
    told = "" if response is None else response.headers.get("Retry-After", "")
    return min(float(told), 60.0) if told.isdecimal() else 0.0
