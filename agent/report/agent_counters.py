"""What the agent counts while it works. No decision depends on it; ``agent.report.metrics`` exposes it."""

from __future__ import annotations

from contextlib import suppress

from agent.base.lean_imports import bare

# Without the servers that it brings along, of HTTP and of WSGI, with email and html.
with bare("prometheus_client"):
    from prometheus_client.metrics import Counter, Gauge, Histogram, disable_created_metrics
    from prometheus_client.process_collector import ProcessCollector
    from prometheus_client.registry import CollectorRegistry

RECONCILE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
ATTACH_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
CSI_BUCKETS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 100)


class Counters:
    """The agent's own counters, each with the verb the engine uses.

    One object per daemon, in a registry of its own, so that tests and demos never share numbers.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # published without a return type
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)  # of the daemon itself, whoever shows it
        self._reconciles = self._count("reconciles", "Looks at a volume, by how they ended.", "outcome")
        self._reconcile_seconds = self._time(
            "reconcile_duration_seconds",
            "Time from the start of a look at a volume until nothing more could be done for it.",
            RECONCILE_BUCKETS_S,
        )
        self._steps = self._count(
            "steps", "Steps executed, by kind and by how they ended.", "step", "outcome"
        )
        self._attach_seconds = self._time(
            "attach_to_ready_seconds",
            "Time from the announcement of a device until its volume was ready for use.",
            ATTACH_BUCKETS_S,
        )
        self._cloud_requests = self._count(
            "cloud_requests", "Calls made to AWS, by operation and by how they ended.", "operation", "outcome"
        )
        self._cloud_success = Gauge(
            "ebs_agent_cloud_last_success_timestamp_seconds",
            "When AWS last answered a call well, by operation.",
            ["operation"],
            registry=self.registry,
        )
        self._uevents = self._count("uevents", "Announcements of devices received from udev.")
        self._overflows = self._count(
            "uevent_overflows", "Times announcements were lost and every device was looked at instead."
        )
        self._mqtt_messages = self._count(
            "mqtt_messages",
            "Messages for the MQTT broker: taken by it, or dropped since it was away for too long.",
            "outcome",
        )
        self._mqtt_connected = self._show(
            "mqtt_connected", "1 while the agent is connected to the policy's MQTT broker."
        )
        self._certificates = Gauge(
            "ebs_agent_certificate_not_after_timestamp_seconds",
            "When the certificate that is shown to clients (http) or to the broker (mqtt) ends.",
            ["certificate"],
            registry=self.registry,
        )
        self._connections = self._count(
            "connections",
            "Connections to the agent's sockets, and what was no request, by what became of them.",
            "face",
            "outcome",
        )
        self._csi_calls = self._count(
            "csi_calls",
            "Calls of kubelet's, by name and by the code they were answered with.",
            "method",
            "code",
        )
        self._csi_seconds = self._time(
            "csi_call_duration_seconds",
            "Time from the arrival of a call of kubelet's to its answer.",
            CSI_BUCKETS_S,
            "method",
        )
        self._csi_registered = self._show(
            "csi_registered",
            "1 while kubelet takes the agent for the plugin of all its drivers on this node.",
        )
        self._reload_success = self._show(
            "policy_reload_success",
            "1 if the policy last read is in force, 0 if it was rejected and the one before is.",
        )

    def _count(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ebs_agent_{name}", text, labels, registry=self.registry)

    def _time(self, name: str, text: str, buckets_s: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"ebs_agent_{name}", text, labels, buckets=buckets_s, registry=self.registry)

    def _show(self, name: str, text: str) -> Gauge:
        return Gauge(f"ebs_agent_{name}", text, registry=self.registry)

    def count_reconcile(self, outcome: str, duration_s: float) -> None:
        """Count one look. ``outcome``: ``done``, or in a word why not; ``docs/metrics.md`` lists them."""
        self._reconciles.labels(outcome).inc()
        self._reconcile_seconds.observe(duration_s)

    def count_step(self, kind: str, outcome: str) -> None:
        """Count one step of a ``kind``. ``outcome``: ``done``, ``failed`` or ``interrupted``."""
        self._steps.labels(kind, outcome).inc()

    def count_attach(self, duration_s: float) -> None:
        """Count a volume that became ready ``duration_s`` after its device was announced."""
        self._attach_seconds.observe(duration_s)

    def count_cloud_request(self, operation: str, outcome: str) -> None:
        """Count one call to AWS. ``outcome``: ``done``, ``failed`` or ``denied``."""
        self._cloud_requests.labels(operation, outcome).inc()
        if outcome == "done":
            self._cloud_success.labels(operation).set_to_current_time()

    def count_mqtt(self, outcome: str, count: int = 1) -> None:
        """Count messages. ``outcome``: ``sent`` or ``dropped``."""
        if count:
            self._mqtt_messages.labels(outcome).inc(count)

    def note_mqtt_connection(self, *, is_connected: bool) -> None:
        self._mqtt_connected.set(int(is_connected))

    def note_certificate(self, certificate: str, expires_at: float | None) -> None:
        """Tell when the one shown at ``http`` or to ``mqtt`` ends, in seconds since 1970; None: none is."""
        if expires_at is not None:
            self._certificates.labels(certificate).set(expires_at)
        else:
            with suppress(KeyError):
                self._certificates.remove(certificate)

    def count_connection(self, face: str, outcome: str) -> None:
        """Count one at the ``face`` ``http`` or ``control``; outcomes are ``flood_log``'s."""
        self._connections.labels(face, outcome).inc()

    def count_csi_call(self, method: str, code: str, duration_s: float) -> None:
        """Count one call of kubelet's, answered with a ``code`` of gRPC after ``duration_s``."""
        self._csi_calls.labels(method, code).inc()
        self._csi_seconds.labels(method).observe(duration_s)

    def note_csi_registration(self, *, is_registered: bool) -> None:
        self._csi_registered.set(int(is_registered))

    def count_uevent(self) -> None:
        self._uevents.inc()

    def count_overflow(self) -> None:
        self._overflows.inc()

    def note_policy_reload(self, *, is_in_force: bool) -> None:
        self._reload_success.set(1 if is_in_force else 0)
