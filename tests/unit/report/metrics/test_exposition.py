from __future__ import annotations

import subprocess
from datetime import timedelta

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from agent.core.model import (
    Condition,
    Difference,
    EndCause,
    Ending,
    NodeReason,
    Reason,
    Remedy,
    SnapshotFacts,
)
from agent.core.replace import replace
from agent.node.sampling.ebs_statistics import parse_statistics
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.readings import Health, Verdict
from agent.report.board.volume_status import VolumeStatus
from agent.report.metrics.exposition import Exposition
from agent.report.metrics.volume_metrics import render_series
from tests.unit.node.sampling.test_ebs_statistics import make_page
from tests.unit.report.health.test_sampler import SAMPLE
from tests.unit.report.samples import (
    CHECKPOINTS,
    DATASETS,
    GIB,
    NOON,
    READY,
    REFUSED,
    make_board,
    make_places,
    make_status,
)

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
SNAPSHOTS = SnapshotFacts("checkpoints", NOON, NOON + timedelta(hours=6), 3, ("snap-1",))
HEALTH = Health(replace(SAMPLE, io_timeout_s=30), parse_statistics(make_page()), probe_s=0.002)


def expose(board: Board, counters: Counters | None = None) -> str:
    return Exposition(board, counters or Counters(), lambda: 1).render()[0].decode()


def make_sampled_board() -> Board:
    """Return a board with a volume that EBS's statistics are known of, and one that nothing is known of."""
    board = make_board(READY, REFUSED)
    board.judge(CHECKPOINTS, HEALTH)
    board.put_snapshots({CHECKPOINTS: SNAPSHOTS})
    return board


def read_samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_condition_is_a_state_set() -> None:
    """Every condition has a series of each volume, 1 for exactly the one the volume is in."""
    samples = read_samples(expose(make_board(REFUSED)))
    states = {
        dict(labels)["condition"]: value
        for (name, labels), value in samples.items()
        if name == "ebs_agent_volume_condition"
    }
    assert states == {str(c): float(c is Condition.REFUSED) for c in Condition}


def test_volume_series_join_on_the_id() -> None:
    """Numbers carry the volume ID only; everything else about a volume is in its info series."""
    samples = read_samples(expose(make_board(READY)))
    info = {
        "volume_id": CHECKPOINTS,
        "name": "checkpoints",
        "device": "/dev/nvme1n1",
        "mountpoint": "/data/ckpt",
        "fstype": "ext4",
    }
    by_id = frozenset({("volume_id", CHECKPOINTS)})
    assert samples["ebs_agent_volume_info", frozenset(info.items())] == 1
    assert samples["ebs_agent_volume_size_bytes", by_id] == 500 * GIB
    assert samples["ebs_agent_filesystem_avail_bytes", by_id] == 245 * GIB
    assert samples["ebs_agent_filesystem_readonly", by_id] == 0


def test_series_go_with_their_volume() -> None:
    """A volume that left the board leaves no series behind."""
    board = make_board(READY, REFUSED)
    exposition = Exposition(board, Counters())
    assert DATASETS in exposition.render()[0].decode()
    board.remove(DATASETS)
    text = exposition.render()[0].decode()
    assert DATASETS not in text
    assert CHECKPOINTS in text


def test_unsampled_filesystem_has_no_numbers() -> None:
    """What was not measured is absent, never zero."""
    text = expose(make_board(make_status(usage=None, size_bytes=None)))
    assert "ebs_agent_filesystem_size_bytes{" not in text
    assert "ebs_agent_volume_size_bytes{" not in text


def test_snapshots_are_told_while_they_are_known() -> None:
    """Their series hold what AWS said last, are absent where it said nothing, and go with the volume."""
    board = make_board(READY, REFUSED)
    newest, due, failed = (
        f'ebs_agent_volume_{name}{{volume_id="{CHECKPOINTS}"}}'
        for name in (
            "snapshot_last_success_timestamp_seconds",
            "snapshot_due_timestamp_seconds",
            "snapshots_failed",
        )
    )
    exposition = Exposition(board, Counters())
    assert f"{failed} " not in exposition.render()[0].decode()
    board.put_snapshots({CHECKPOINTS: SNAPSHOTS})
    text = exposition.render()[0].decode()
    assert f"{newest} {int(NOON.timestamp())}\n" in text
    assert f"{due} {int(NOON.timestamp()) + 6 * 3600}\n" in text
    assert f"{failed} 1\n" in text
    assert f'snapshots_failed{{volume_id="{DATASETS}"}}' not in text
    board.put_snapshots({CHECKPOINTS: replace(SNAPSHOTS, last_completed_at=None, failed=())})
    text = exposition.render()[0].decode()
    assert f"{newest} " not in text
    assert f"{failed} 0\n" in text
    board.put_snapshots({})
    assert f"{failed} " not in exposition.render()[0].decode()


def test_counters_count_what_the_engine_did() -> None:
    """Each verb of the counters moves its own series."""
    counters = Counters()
    counters.count_reconcile("ready", 0.02)
    counters.count_step("format", "done")
    counters.count_attach(0.3)
    counters.count_csi_call("NodeStageVolume", "OK", 0.3)
    counters.count_uevent()
    counters.count_overflow()
    counters.note_policy_reload(is_in_force=True)
    samples = read_samples(expose(make_board(), counters))
    expected = {
        ("ebs_agent_reconciles_total", frozenset({("outcome", "ready")})),
        ("ebs_agent_reconcile_duration_seconds_count", frozenset()),
        ("ebs_agent_steps_total", frozenset({("step", "format"), ("outcome", "done")})),
        ("ebs_agent_attach_to_ready_seconds_count", frozenset()),
        ("ebs_agent_csi_calls_total", frozenset({("method", "NodeStageVolume"), ("code", "OK")})),
        ("ebs_agent_csi_call_duration_seconds_count", frozenset({("method", "NodeStageVolume")})),
        ("ebs_agent_uevents_total", frozenset()),
        ("ebs_agent_uevent_overflows_total", frozenset()),
        ("ebs_agent_abandoned_calls_total", frozenset()),
        ("ebs_agent_policy_reload_success", frozenset()),
    }
    assert {samples[key] for key in expected} == {1.0}


def test_hostile_names_are_escaped() -> None:
    """A path with quotes, backslashes and line breaks stays one label of one line."""
    path = '/data/"x"\\\n# HELP evil 1'
    samples = read_samples(expose(make_board(make_status(path=path))))
    paths = {dict(labels).get("mountpoint") for name, labels in samples if name == "ebs_agent_volume_info"}
    assert paths == {path}


def test_statistics_are_what_the_page_says() -> None:
    """EBS's counters keep their suffixes and are in base units; the histogram's sum is EBS's own total."""
    samples = read_samples(expose(make_sampled_board()))
    by_id = frozenset({("volume_id", CHECKPOINTS)})
    expected = {
        "volume_read_ops_total": 3,
        "volume_write_bytes_total": 65536,
        "volume_read_seconds_total": 0.0052,
        "volume_exceeded_iops_seconds_total": 10e-6,
        "volume_exceeded_tp_seconds_total": 20e-6,
        "volume_ec2_exceeded_iops_seconds_total": 30e-6,
        "volume_ec2_exceeded_tp_seconds_total": 40e-6,
        "volume_queue_length": 7,
        "volume_stalled": 0,
        "volume_probe_duration_seconds": 0.002,
        "volume_io_timeout_seconds": 30,
        "volume_read_io_latency_seconds_sum": 0.0052,
        "volume_read_io_latency_seconds_count": 3,
        "block_write_ops_total": 1,
    }
    assert {name: samples[f"ebs_agent_{name}", by_id] for name in expected} == expected


def test_latency_is_a_true_histogram() -> None:
    """Buckets are cumulative, rise to the count, and hold each operation from its own duration on."""
    samples = read_samples(expose(make_sampled_board()))
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in samples.items()
        if name == "ebs_agent_volume_read_io_latency_seconds_bucket"
    }
    ordered = [buckets[edge] for edge in sorted(buckets)]
    assert ordered == sorted(ordered)
    assert (buckets[64e-6], buckets[128e-6], buckets[4096e-6], buckets[8192e-6]) == (0, 2, 2, 3)
    assert buckets[float("inf")] == 3


def test_unknown_volume_has_no_statistics() -> None:
    """A volume without EBS's statistics has no series of them, rather than zeros."""
    lines = [line for line in expose(make_sampled_board()).splitlines() if DATASETS in line]
    assert {line.split("{")[0] for line in lines} == {
        "ebs_agent_volume_info",
        "ebs_agent_volume_condition",
        "ebs_agent_volume_problem",
        "ebs_agent_volume_required",
        "ebs_agent_volume_size_bytes",
    }


def test_drift_is_a_series_for_each_kind() -> None:
    """Several tags are one kind; a volume that is as its claim says has no series."""
    board = make_board(make_status(name="ckpt"), REFUSED)
    tags = [Difference("tags", "not set", "a", Remedy.LATER, part=part) for part in ("a", "b")]
    lasting = Difference("encrypted", "false", "true", Remedy.NEW_VOLUME)
    board.explain_by_cloud({}, {}, drift={"ckpt": (lasting, *tags)})
    told = [line for line in expose(board).splitlines() if line.startswith("ebs_agent_volume_drift{")]
    assert told == [
        f'ebs_agent_volume_drift{{volume_id="{CHECKPOINTS}",what="{what}"}} 1'
        for what in ("encrypted", "tags")
    ]


def test_both_formats_say_the_same() -> None:
    """OpenMetrics, which is stricter, parses and has the same samples as the text format."""
    exposition = Exposition(make_sampled_board(), Counters(), lambda: 1)
    modern, content_type = exposition.render(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text")
    told = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parse_openmetrics(modern.decode())  # type: ignore[no-untyped-call]  # published without types
        for sample in family.samples
    }
    plain = read_samples(exposition.render()[0].decode())
    assert told.keys() == plain.keys()
    moves = {sample for sample in told if sample[0].startswith("process_")}
    assert {key: told[key] for key in told.keys() - moves} == {
        key: plain[key] for key in plain.keys() - moves
    }


def test_process_is_told_as_other_exporters_tell_theirs() -> None:
    """Dashboards of any exporter show what the agent itself costs."""
    samples = read_samples(Exposition(make_board(), Counters()).render()[0].decode())
    names = {name for name, _ in samples}
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= names
    assert "python_info" in names


def test_last_good_look_at_aws_is_told_once_there_was_one() -> None:
    """A call that failed moves nothing, and before any was answered well there is no series."""
    counters = Counters()
    exposition = Exposition(make_board(), counters)
    key = ("ebs_agent_cloud_last_success_timestamp_seconds", frozenset({("operation", "DescribeVolumes")}))
    counters.count_cloud_request("DescribeVolumes", "failed")
    assert key not in read_samples(exposition.render()[0].decode())
    counters.count_cloud_request("DescribeVolumes", "done")
    assert read_samples(exposition.render()[0].decode())[key] > 1e9


def test_stall_that_the_engine_found_shows_at_once() -> None:
    """A volume that the engine could not look at is stalled before sampling says so too, and without it."""
    stalled = make_status(condition=Condition.FAILED, reason=Reason.STALLED)
    text = Exposition(make_board(stalled), Counters()).render()[0].decode()
    assert f'ebs_agent_volume_stalled{{volume_id="{CHECKPOINTS}"}} 1\n' in text


def test_series_follow_what_is_sampled() -> None:
    """A scrape after a new sample has the new numbers, though series are kept between scrapes."""
    board = make_sampled_board()
    exposition = Exposition(board, Counters())
    assert 'volume_stalled{volume_id="vol-0123456789abcdef0"} 0\n' in exposition.render()[0].decode()
    stalled = Verdict(Condition.FAILED, Reason.STALLED, "It does not answer.", "Wait.")
    board.judge(CHECKPOINTS, replace(HEALTH, verdicts=(stalled,)))
    text = exposition.render()[0].decode()
    assert 'volume_stalled{volume_id="vol-0123456789abcdef0"} 1\n' in text
    assert 'volume_problem{volume_id="vol-0123456789abcdef0",reason="Stalled"} 1\n' in text


@pytest.mark.needs("promtool")
def test_prometheus_finds_nothing_to_object_to() -> None:
    """Names, types and help texts follow Prometheus' own rules."""
    counters = Counters()
    counters.count_reconcile("ready", 0.02)
    counters.count_step("format", "done")
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=expose(make_sampled_board(), counters),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_places_of_the_instance_are_counted_once_they_are_known() -> None:
    """How many volumes are attached, and how many the instance takes, with its type."""
    board = make_board(READY)
    assert not [name for name, _ in read_samples(expose(board)) if "instance_attachments" in name]
    board.places = make_places("m5.xlarge", DATASETS)
    samples = read_samples(expose(board))
    labels = frozenset({("instance_type", "m5.xlarge")})
    assert samples["ebs_agent_instance_attachments_used", labels] == 3
    assert samples["ebs_agent_instance_attachments_limit", labels] == 27


def test_persistent_volumes_are_named() -> None:
    """A volume of Kubernetes' is joined to what Kubernetes calls it."""
    board = make_board(READY)
    assert not [name for name, _ in read_samples(expose(board)) if "persistentvolume" in name]
    board.put_persistent_volumes({CHECKPOINTS: "pvc-1"})
    labels = frozenset({("volume_id", CHECKPOINTS), ("persistentvolume", "pvc-1")})
    assert read_samples(expose(board))["ebs_agent_persistentvolume_info", labels] == 1


def test_what_is_wrong_with_the_node_is_a_series() -> None:
    """As long as it is."""
    board = make_board(READY)
    series = frozenset({("reason", "RegistrationRefused"), ("about", "a.driver")})
    board.node_conditions.show(NodeReason.REGISTRATION_REFUSED, "a.driver", "kubelet says no.")
    assert read_samples(expose(board))["ebs_agent_node_condition", series] == 1
    board.node_conditions.end(NodeReason.REGISTRATION_REFUSED, "a.driver")
    assert ("ebs_agent_node_condition", series) not in read_samples(expose(board))


def test_instance_that_ends_is_told_with_the_cause() -> None:
    """For an alert: 0 until it is heard of, so that the rise is seen."""
    board = make_board(READY)

    def read() -> dict[str, float]:
        name, samples = "ebs_agent_instance_ending", read_samples(expose(board))
        return {dict(labels)["cause"]: value for (of, labels), value in samples.items() if of == name}

    assert read() == {"spot-interruption": 0, "power-off": 0}
    board.ending = Ending(EndCause.SPOT_INTERRUPTION, "AWS is about to stop this instance.")
    assert read() == {"spot-interruption": 1, "power-off": 0}


def test_what_cannot_be_told_is_counted_and_the_rest_is_told() -> None:
    """A volume or a part that fails costs its own series alone, at each scrape once, and is said once."""

    def render(status: VolumeStatus) -> tuple[str, ...]:
        if status.volume_id == DATASETS:
            raise ValueError("no number")
        return render_series(status)

    def count_abandoned() -> int:
        raise RuntimeError("no count")

    exposition = Exposition(make_board(READY, REFUSED), Counters(), count_abandoned, render)
    with capture_logs() as logs:
        exposition.render()
        text = exposition.render(OPENMETRICS)[0].decode()
    assert text.endswith("# EOF\n")
    assert CHECKPOINTS in text
    assert DATASETS not in text
    assert 'ebs_agent_scrape_errors_total{collector="volumes"} 2.0\n' in text
    assert 'ebs_agent_scrape_errors_total{collector="abandoned_calls"} 2.0\n' in text
    assert 'ebs_agent_scrape_errors_total{collector="readiness"} 0.0\n' in text
    assert "\nebs_agent_ready 1.0\n" in text
    assert [(one["event"], one["collector"]) for one in logs] == [
        ("metrics.incomplete", "volumes"),
        ("metrics.incomplete", "abandoned_calls"),
    ]


def test_text_that_no_encoding_has_is_spelt_out() -> None:
    """Half of a surrogate pair in a path does not cost the scrape."""
    text = expose(make_board(make_status(path="/data/\udcff")))
    assert "/data/\\udcff" in text


def test_certificates_are_told_while_they_are_shown() -> None:
    """When they end; no series once none is shown."""
    counters = Counters()
    exposition = Exposition(make_board(), counters)
    line = 'ebs_agent_certificate_not_after_timestamp_seconds{certificate="http"} 1.8e+09\n'
    counters.note_certificate("http", None)
    assert line not in exposition.render()[0].decode()
    counters.note_certificate("http", 1.8e9)
    assert line in exposition.render()[0].decode()
    counters.note_certificate("http", None)
    assert line not in exposition.render()[0].decode()
