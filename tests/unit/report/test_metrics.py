from __future__ import annotations

import subprocess

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent.model import Condition
from agent.report.board import Board
from agent.report.counters import Counters
from agent.report.metrics import register_board
from tests.unit.report.samples import CHECKPOINTS, DATASETS, GIB, READY, REFUSED, make_board, make_status


def expose(board: Board, counters: Counters | None = None) -> str:
    return generate_latest(register_board(board, counters or Counters())).decode()


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
    """A volume that left the board leaves no series behind, in the same registry."""
    board = make_board(READY, REFUSED)
    registry = register_board(board, Counters())
    assert DATASETS in generate_latest(registry).decode()
    board.remove(DATASETS)
    text = generate_latest(registry).decode()
    assert DATASETS not in text
    assert CHECKPOINTS in text


def test_unsampled_filesystem_has_no_numbers() -> None:
    """What was not measured is absent, never zero."""
    text = expose(make_board(make_status(usage=None, size_bytes=None)))
    assert "ebs_agent_filesystem_size_bytes{" not in text
    assert "ebs_agent_volume_size_bytes{" not in text


def test_counters_count_what_the_engine_did() -> None:
    """Each verb of the counters moves its own series."""
    counters = Counters()
    counters.count_reconcile("ready", 0.02)
    counters.count_step("format", "done")
    counters.count_attach(0.3)
    counters.count_uevent()
    counters.count_overflow()
    counters.count_abandoned()
    counters.note_policy_reload(is_in_force=True)
    samples = read_samples(expose(make_board(), counters))
    expected = {
        ("ebs_agent_reconciles_total", frozenset({("outcome", "ready")})),
        ("ebs_agent_reconcile_duration_seconds_count", frozenset()),
        ("ebs_agent_steps_total", frozenset({("step", "format"), ("outcome", "done")})),
        ("ebs_agent_attach_to_ready_seconds_count", frozenset()),
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


@pytest.mark.needs("promtool")
def test_prometheus_finds_nothing_to_object_to() -> None:
    """Names, types and help texts follow Prometheus' own rules."""
    counters = Counters()
    counters.count_reconcile("ready", 0.02)
    counters.count_step("format", "done")
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=expose(make_board(READY, REFUSED), counters),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
