"""What the controller counts while it works, and where Prometheus reads it. No decision depends on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import start_http_server

from agent.core.errors import AgentError

CALL_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 50, 60)


class ControllerCounters:
    """One object per process, in a registry of its own."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # published without a return type
        self.registry = CollectorRegistry(auto_describe=False)
        self._calls = Counter(
            "ebs_agent_controller_calls",
            "Calls of the sidecars, by name and by the code they were answered with.",
            ("method", "code"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "ebs_agent_controller_call_duration_seconds",
            "Time from the arrival of a sidecar's call to its answer.",
            ("method",),
            buckets=CALL_BUCKETS_S,
            registry=self.registry,
        )
        self._requests = Counter(
            "ebs_agent_controller_cloud_requests",
            "Calls made to AWS, by operation and by how they ended.",
            ("operation", "outcome"),
            registry=self.registry,
        )
        self._orphans = Gauge(
            "ebs_agent_controller_orphans",
            "Volumes, snapshots and VolumeAttachments that Kubernetes does not know any more, by kind.",
            ("kind",),
            registry=self.registry,
        )
        self.was_answered = False
        """AWS has answered once: the role, the region and the way there are right."""

    def count_call(self, method: str, code: str, duration_s: float) -> None:
        """Count a call of a sidecar's."""
        self._calls.labels(method, code).inc()
        self._seconds.labels(method).observe(duration_s)

    def count_request(self, operation: str, outcome: str) -> None:
        """Count a call to AWS."""
        self._requests.labels(operation, outcome).inc()
        self.was_answered |= outcome == "done"

    def note_orphans(self, counts: Mapping[str, int] | None) -> None:
        """Tell how many orphans there are of each kind; None: another replica knows."""
        self._orphans.clear()
        for kind, count in (counts or {}).items():
            self._orphans.labels(kind).set(count)


@contextmanager
def serving_metrics(counters: ControllerCounters, port: int | None) -> Iterator[None]:
    """Serve the counters at ``port`` of all addresses; None: nowhere. Raises AgentError."""
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, registry=counters.registry)
    except OSError as error:
        raise AgentError(
            f"Metrics cannot be served at port {port}: {error.strerror or error}.",
            hint="Choose another with --metrics-port, or leave it out.",
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
