"""Which replica of the controller works: the holder of a Lease, and of two never both.

The holder renews it every two seconds. Ten seconds after it sent the last renewal that came through it begins
no deed any more, and each ends within four; another replica takes it over once it has not seen it renewed for
fifteen. Both measure by clocks of their own that only go on, so none needs to be right.
(The rules are those of Kubernetes' own controllers: ``k8s.io/client-go/tools/leaderelection``.)
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Protocol

import anyio
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease as LeaseObject

from agent.base.log import get_logger
from agent.controller.cluster.api import ClusterError
from agent.core.errors import OvertakenError
from agent.core.units import utc_now

DURATION_S = 15
RIGHT_S = 10.0
"""How long after a renewal was sent a deed may be begun."""
DEED_S = 4.0
"""In which a deed has ended, whatever became of it."""
RENEW_S = 2.0

log = get_logger(__name__)


class LeaseApi(Protocol):
    """What keeps leases."""

    namespace: str

    async def find_in(self, kind: type[LeaseObject], name: str, namespace: str, /) -> LeaseObject | None:
        """Return the lease of a name, if there is one."""

    async def create(self, made: LeaseObject, name: str, /) -> None:
        """Make it; ClusterError where there is one."""

    async def replace(self, changed: LeaseObject, name: str, /) -> None:
        """Write it anew; ClusterError where it changed since it was read."""


class Lease:
    """One replica's part in who works."""

    def __init__(
        self, api: LeaseApi, name: str, holder: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._api = api
        self._name = name
        self._holder = holder
        self._clock = clock
        self._until: float | None = None
        self._seen: tuple[object, ...] = ()
        self._seen_at = 0.0

    @property
    def is_held(self) -> bool:
        """A deed may be begun."""
        return self._until is not None and self._clock() < self._until

    @asynccontextmanager
    async def doing(self, deed: str) -> AsyncIterator[None]:
        """Let a deed be done that is the holder's alone; OvertakenError where this replica is not it."""
        if not self.is_held:
            raise OvertakenError(f"Another replica works: what was to be done is left, to {deed}.")
        try:
            with anyio.fail_after(DEED_S):
                yield
        except TimeoutError as error:
            raise ClusterError(
                f"Kubernetes' API did not answer in {DEED_S:.0f} s when asked to {deed}."
            ) from error

    async def acquire(self) -> None:
        """Return once this replica is the one that works."""
        while not await self._try_to_take():  # noqa: ASYNC110 -- nothing of this process takes it
            await anyio.sleep(RENEW_S)
        log.info("care.began", lease=self._name, holder=self._holder)

    async def keep(self) -> None:
        """Renew the lease; returns when it is lost, or may be."""
        while self.is_held:
            await anyio.sleep(RENEW_S)
            remaining_s = max(0.0, (self._until or 0.0) - self._clock())
            with anyio.move_on_after(min(DEED_S, remaining_s)):
                await self._try_to_take()
        self._until = None
        log.warning("care.lease_lost", lease=self._name, holder=self._holder)

    async def release(self) -> None:
        """Let another replica have it at once; only after all that it is held for has ended."""
        was_held, self._until = self.is_held, None
        if not was_held:
            return
        try:
            with anyio.fail_after(DEED_S):
                found = await self._api.find_in(LeaseObject, self._name, self._api.namespace)
                if found is not None and found.spec is not None and found.spec.holderIdentity == self._holder:
                    found.spec.holderIdentity = ""
                    await self._api.replace(found, self._name)
        except (ClusterError, TimeoutError) as error:
            log.info("care.lease_not_released", lease=self._name, error=str(error))

    async def _try_to_take(self) -> bool:
        """Return whether the lease is this replica's from now on, taken or renewed."""
        sent_at = self._clock()
        try:
            is_taken = await self._write()
        except ClusterError as error:
            log.debug("care.lease_not_written", lease=self._name, error=error.message)
            return False
        # Where somebody else has it, what right there was ends now.
        self._until = sent_at + RIGHT_S if is_taken else None
        return is_taken

    async def _write(self) -> bool:
        found = await self._api.find_in(LeaseObject, self._name, self._api.namespace)
        if found is None:
            found = LeaseObject(
                metadata=ObjectMeta(name=self._name, namespace=self._api.namespace),
                spec=LeaseSpec(leaseTransitions=-1),
            )
            write = self._api.create
        else:
            write = self._api.replace
        spec = found.spec or LeaseSpec()
        if self._is_anothers(spec):
            return False
        now = _read_time()
        if spec.holderIdentity != self._holder:
            spec.leaseTransitions = (spec.leaseTransitions or 0) + 1
            spec.acquireTime = now
        spec.holderIdentity, spec.renewTime, spec.leaseDurationSeconds = self._holder, now, DURATION_S
        found.spec = spec
        try:
            await write(found, self._name)
        except ClusterError as error:
            if error.is_overtaken:
                return False
            raise
        return True

    def _is_anothers(self, spec: LeaseSpec) -> bool:
        """Return whether another replica has it, and was seen to renew it within its time."""
        record = (spec.holderIdentity, spec.renewTime, spec.acquireTime)
        if record != self._seen:
            self._seen, self._seen_at = record, self._clock()
        if not spec.holderIdentity or spec.holderIdentity == self._holder:
            return False
        return self._clock() < self._seen_at + (spec.leaseDurationSeconds or DURATION_S)


def _read_time() -> datetime:
    """Return the time for people to read. Kubernetes refuses it without a fraction of a second."""
    now = utc_now()
    return now.replace(microsecond=now.microsecond or 1)
