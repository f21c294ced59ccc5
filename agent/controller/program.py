"""The controller as a process: what is made and joined when it starts, until it is told to end.

It needs no root and no device. Told to end it answers what it was asked before, as long as a pod has time.
What is under way even then is left: AWS goes on with it, and whoever asked for it asks again, this replica or
another, and finds what became of it.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
from msgspec import Struct

import agent
from agent.base.error_barrier import supervise
from agent.base.log import get_logger
from agent.cloud.aws.call import Make
from agent.cloud.aws.calls import GetCallerIdentity
from agent.cloud.aws.models import Tags
from agent.cloud.aws_worker.client import CloudClient
from agent.cloud.aws_worker.process import WorkerSettings
from agent.controller.calls import Snapshots, Volumes
from agent.controller.care.settings import CareSettings
from agent.controller.cluster.cluster_nodes import ClusterNodes
from agent.controller.counting import ControllerCounters, serving_metrics
from agent.controller.service.controller import LIMIT_S, ControllerService
from agent.controller.service.hints import tell_for_kubernetes
from agent.controller.service.unattended import begin_only_while_waited_for, queue_before_turn
from agent.controller.volumes.listing import KnowNodes
from agent.controller.worker_user import choose_worker_user
from agent.core.errors import AgentError
from agent.csi.service.answering import Answering
from agent.csi.service.identity import IdentityService, Plugin
from agent.csi.service.join import Joining
from agent.csi.service.serve import serve_calls
from agent.csi.sockets.bind import bind_socket

GRACE_S = 20.0
"""Of the 30 s that Kubernetes gives a pod to end (``terminationGracePeriodSeconds``)."""
AT_ONCE = 16
"""Calls of each kind under way together: one process asks for a whole cluster, in place of each node."""

log = get_logger(__name__)


class ControllerSettings(Struct, frozen=True):
    """What the command line says."""

    endpoint: Path
    driver: str
    region: str
    cluster_id: str | None = None
    """What is made is marked as owned by this cluster, by AWS's own tags for it."""
    extra_tags: Tags = ()
    metrics_port: int | None = None
    care: CareSettings | None = None
    """What is done for the cluster's nodes and claims; None: nothing, as where there is no Kubernetes."""
    cloud_endpoint: str | None = None
    """Where all of AWS answers, for an emulated cloud; None: AWS."""


class Parts(Struct, frozen=True):
    """What the controller asks for volumes and snapshots."""

    volumes: Volumes
    snapshots: Snapshots


Compose = Callable[[Make, ControllerSettings, KnowNodes], Parts]


async def run_controller(settings: ControllerSettings, compose: Compose) -> None:
    """Answer the sidecars until SIGTERM or SIGINT. Raises AgentError where it cannot begin."""
    counters = ControllerCounters()
    worker = WorkerSettings(
        region=settings.region,
        endpoint=settings.cloud_endpoint,
        user=choose_worker_user(os.environ, settings.cloud_endpoint),
        at_once=AT_ONCE,
    )
    with _listen(settings.endpoint) as listener, serving_metrics(counters, settings.metrics_port):
        try:
            async with CloudClient(worker, counters.count_request) as client:
                with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                    await _run_until_told(signals, listener, client.make, settings, compose, counters)
        finally:
            settings.endpoint.unlink(missing_ok=True)


async def _run_until_told(
    signals: AsyncIterator[signal.Signals],
    listener: socket.socket,
    make: Make,
    settings: ControllerSettings,
    compose: Compose,
    counters: ControllerCounters,
) -> None:
    nodes, answering = ClusterNodes(), Answering(counters.count_call)
    make = tell_for_kubernetes(queue_before_turn(make, AT_ONCE))
    parts = compose(begin_only_while_waited_for(make), settings, nodes.list_known)
    async with anyio.create_task_group() as serving:
        serving.start_soon(_serve, listener, settings, parts, counters, answering)
        async with anyio.create_task_group() as aside:
            aside.start_soon(_reach_aws, make)
            if settings.care is not None:
                aside.start_soon(_care, settings.care, make, nodes, counters)
            log.info("controller.ends", signal=signal.Signals(await anext(signals)).name)
            aside.cancel_scope.cancel()  # another replica may care for the cluster at once
        await _finish(signals, answering)
        serving.cancel_scope.cancel()


async def _finish(signals: AsyncIterator[signal.Signals], answering: Answering) -> None:
    """Return when all is answered that was asked, after GRACE_S at the latest, or when told to end again."""

    async def answer(scope: anyio.CancelScope) -> None:
        await answering.end()
        scope.cancel()

    with anyio.move_on_after(GRACE_S) as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer, scope)
            await anext(signals)
            scope.cancel()
    if answering.under_way:
        log.warning("controller.left", calls=answering.under_way)
        answering.give_up()
        await answering.end()


def _listen(endpoint: Path) -> socket.socket:
    try:
        return bind_socket(endpoint)
    except AgentError as error:
        raise AgentError(
            error.message, hint="--endpoint names a socket in a directory that the controller can write to."
        ) from error


async def _serve(
    listener: socket.socket,
    settings: ControllerSettings,
    parts: Parts,
    counters: ControllerCounters,
    answering: Answering,
) -> None:
    plugin = Plugin(settings.driver, agent.__version__, has_controller=True)
    async with Joining(LIMIT_S) as joining:
        services = (
            IdentityService(plugin, answering, lambda: counters.was_answered),
            ControllerService(parts.volumes, parts.snapshots, joining, answering, settings.extra_tags),
        )
        log.info("controller.serves", endpoint=str(settings.endpoint), driver=settings.driver)
        await serve_calls(listener, services, {0, os.geteuid()})


async def _reach_aws(make: Make) -> None:
    """Ask AWS who the controller is, until it answers: what is wrong is told before a claim waits for it."""

    async def ask() -> None:
        account, arn = await make(GetCallerIdentity())
        log.info("controller.reached_aws", account=account, role=arn)

    await supervise("learn from AWS who the controller is", ask)


async def _care(care: CareSettings, make: Make, nodes: ClusterNodes, counters: ControllerCounters) -> None:
    """Care for the cluster; what is wrong with that is told, and the sidecars are answered all the same."""

    async def run() -> None:
        try:
            from agent.controller.care.run import run_care  # noqa: PLC0415 -- it takes Kubernetes' client
        except ImportError as error:
            raise AgentError(
                f"The cluster is not cared for: {error.name} is not installed.",
                hint="Install what the controller needs: pip install 'hyperpod-ebs-agent[controller]'.",
            ) from error
        await run_care(care, make, nodes.note, counters.note_orphans)

    await supervise("care for the cluster", run)
