"""A volume and the commands it serves, with its faults, limits and statistics in their way.

Owns the order in which a read or write meets them: counted, held by a stall, slowed, limited by the volume
and then by the instance, failed, and at last served. It knows nothing of connections, and never touches the
file for a command whose connection is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.ebs import nvm
from tests.ebs.backing import Backing, copy_file
from tests.ebs.clock import now_us
from tests.ebs.errors import DO_NOT_RETRY, CommandError, Status, TargetError
from tests.ebs.faults import Faults, Operation
from tests.ebs.limits import Limiter
from tests.ebs.logpage import EBS_MAGIC, INSTANCE_STORE_MAGIC, Exceeded, pack_page
from tests.ebs.record import VolumeRecord, save_record
from tests.ebs.request import Request
from tests.ebs.statistics import Statistics

log = logging.getLogger(__name__)

_EVERY_OPERATION = frozenset(Operation)


class Volume:
    """One volume, attached or not. All methods are called on the event loop's thread."""

    def __init__(self, record: VolumeRecord, record_path: Path, backing: Backing, instance: Limiter) -> None:
        self.record = record
        self.backing = backing
        self.faults = Faults()
        self.statistics = Statistics()
        self._record_path = record_path
        self._limiter = Limiter(record.rates)
        self._instance = instance
        self._instance_exceeded_before_us = (0, 0)
        self._held: list[Request] = []
        self._held_admin: list[Callable[[], None]] = []
        self._copies = 0
        self._syncs: set[asyncio.Future[None]] = set()

    def update_record(self, record: VolumeRecord) -> None:
        """Remember a changed description, durably, before anyone can see it."""
        save_record(self._record_path, record)
        if record.rates != self.record.rates:
            self._limiter.change(record.rates, now_us())
        self.record = record

    def reset_statistics(self) -> None:
        """Count anew, as EBS does from one attach to the next."""
        self.statistics = Statistics()
        self._limiter = Limiter(self.record.rates)
        self._instance_exceeded_before_us = self._instance.exceeded_us(now_us())

    def grow(self, size_bytes: int) -> None:
        if size_bytes < self.record.size_bytes:
            raise TargetError(f"{self.record.volume_id}: a volume never shrinks")
        self.backing.grow(size_bytes)
        self.update_record(replace(self.record, size_bytes=size_bytes))

    def sync_soon(self, then: Callable[[bool], None]) -> None:
        """Wait in a thread until the disk has all that was written so far, then say whether it has.

        Elsewhere than on the event loop, because a disk that is slow for one volume must not stop the others.
        """
        future = asyncio.get_running_loop().run_in_executor(None, self.backing.sync)
        self._syncs.add(future)
        future.add_done_callback(lambda done: self._end_sync(done, then))

    def _end_sync(self, done: asyncio.Future[None], then: Callable[[bool], None]) -> None:
        self._syncs.discard(done)
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            log.error("%s: the backing file could not be synced: %s", self.record.volume_id, error)
        then(error is None)

    async def close(self) -> None:
        """Close the file once nothing waits for it any more."""
        await asyncio.gather(*self._syncs, return_exceptions=True)
        self.backing.close()

    def pack_statistics(self) -> bytes:
        """Return log page 0xD0 as it is now; raise CommandError where it was made to fail."""
        fault = self.faults.log_page
        if fault is not None and fault.status is not None:
            raise CommandError(fault.status)
        now = now_us()
        volume_iops_us, volume_throughput_us = self._limiter.exceeded_us(now)
        instance = (
            total_us - before_us
            for total_us, before_us in zip(
                self._instance.exceeded_us(now), self._instance_exceeded_before_us, strict=True
            )
        )
        return pack_page(
            self.statistics,
            Exceeded(volume_iops_us, volume_throughput_us, *instance),
            magic=INSTANCE_STORE_MAGIC if self.record.is_instance_store else EBS_MAGIC,
            fault=fault,
        )

    async def copy_to(self, path: Path) -> None:
        """Copy the volume as it is now, as a snapshot does; commands wait meanwhile."""
        self._copies += 1
        try:
            await asyncio.to_thread(self.backing.sync)
            await asyncio.to_thread(copy_file, self.backing.path, path)
        finally:
            self._copies -= 1
            self._release()

    # Faults

    def stall(
        self, *, after: int = 0, on: frozenset[Operation] = _EVERY_OPERATION, admin: bool = False
    ) -> None:
        """Hold every command from the one that comes after ``after`` more; admin commands too if asked.

        Only commands that are one of ``on`` are counted and begin the stall: the third write, say.
        """
        self.faults.is_stalled = after == 0 and on == _EVERY_OPERATION
        self.faults.stall_after = None if self.faults.is_stalled else after
        self.faults.stall_on = on
        self.faults.is_admin_stalled = admin

    def resume(self) -> None:
        """Serve what was held, in the order it came, and all that follows."""
        self.faults.is_stalled = self.faults.is_admin_stalled = False
        self.faults.stall_after = None
        self._release()

    def heal(self) -> None:
        """Remove every fault and serve what was held."""
        self.faults = Faults()
        self._release()

    def hold_admin(self, answer: Callable[[], None]) -> bool:
        """Keep ``answer`` for later while admin commands are stalled; say whether it was kept."""
        if self.faults.is_admin_stalled:
            self._held_admin.append(answer)
        return self.faults.is_admin_stalled

    def _release(self) -> None:
        if not self._copies and not self.faults.is_stalled:
            held, self._held = self._held, []
            for request in held:
                self._limit_volume(request, nvm.OPERATIONS[request.opcode])
        if not self.faults.is_admin_stalled:
            answers, self._held_admin = self._held_admin, []
            for answer in answers:
                answer()

    # Commands

    def submit(self, request: Request) -> None:
        """Take one command of the NVM command set; it is answered now or later."""
        operation = nvm.OPERATIONS.get(request.opcode)
        if operation is None:
            request.finish(Status.INVALID_OPCODE | DO_NOT_RETRY)
            return
        if operation in {Operation.READ, Operation.WRITE}:
            request.is_counted = True
            self.statistics.queue_length += 1
        self._enter(request, operation)

    def abandon(self, request: Request) -> None:
        """Forget a command whose connection is gone."""
        request.is_abandoned = True
        if request.is_counted:
            request.is_counted = False
            self.statistics.queue_length -= 1
        if request in self._held:
            self._held.remove(request)

    def abort(self, request: Request) -> bool:
        """Answer a command as aborted if it is still held; otherwise it is too late."""
        if request not in self._held:
            return False
        self._held.remove(request)
        self._finish(request, Status.ABORT_REQUESTED)
        return True

    def _enter(self, request: Request, operation: Operation) -> None:
        if self._copies or self.faults.hold(operation):
            self._held.append(request)
        elif self.faults.delay_s:
            asyncio.get_running_loop().call_later(self.faults.delay_s, self._limit_volume, request, operation)
        else:
            self._limit_volume(request, operation)

    def _limit_volume(self, request: Request, operation: Operation) -> None:
        self._limit(self._limiter, request, operation, self._limit_instance)

    def _limit_instance(self, request: Request, operation: Operation) -> None:
        self._limit(self._instance, request, operation, self._serve)

    def _limit(
        self,
        limiter: Limiter,
        request: Request,
        operation: Operation,
        then: Callable[[Request, Operation], None],
    ) -> None:
        if limiter.is_unlimited or not request.is_counted:
            then(request, operation)
            return
        now = now_us()
        ready_us = limiter.reserve(nvm.size_bytes(request), now)
        if ready_us <= now:
            then(request, operation)
        else:
            asyncio.get_running_loop().call_at(ready_us / 1_000_000, then, request, operation)

    def _serve(self, request: Request, operation: Operation) -> None:
        if request.is_abandoned:
            return
        if self._copies:  # a snapshot began while this command waited for its turn
            self._held.append(request)
            return
        if self.faults.failures:
            status = self.faults.find_failure(operation, *nvm.byte_range(request, operation))
            if status is not None:
                self._finish(request, status)
                return
        try:
            frame = nvm.execute(request, operation, self.backing, self.record)
        except CommandError as error:
            self._finish(request, error.status)
        except OSError as error:
            log.warning("%s: %s failed: %s", self.record.volume_id, operation.value, error)
            self._finish(request, nvm.status_of(error))
        else:
            if nvm.must_be_durable(request, operation):
                self.sync_soon(lambda is_durable: self._finish_sync(request, is_durable=is_durable))
            else:
                self._finish(request, Status.SUCCESS, frame)

    def _finish_sync(self, request: Request, *, is_durable: bool) -> None:
        self._finish(request, Status.SUCCESS if is_durable else Status.INTERNAL_ERROR | DO_NOT_RETRY)

    def _finish(self, request: Request, status: int, frame: bytearray | None = None) -> None:
        if request.is_counted:
            request.is_counted = False
            self.statistics.queue_length -= 1
            if status == Status.SUCCESS:
                is_write = request.opcode == nvm.WRITE
                direction = self.statistics.write if is_write else self.statistics.read
                direction.count(nvm.size_bytes(request), now_us() - request.arrived_us)
        if frame is None:
            request.finish(status)
        else:
            request.finish_with_data(frame, nvm.size_bytes(request))
