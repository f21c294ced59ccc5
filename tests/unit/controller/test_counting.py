from __future__ import annotations

import socket
from urllib.request import urlopen

import pytest

from agent.controller.counting import ControllerCounters, serving_metrics
from agent.core.errors import AgentError


def test_what_is_counted_is_served() -> None:
    """Calls by code, calls to AWS by outcome, and whether AWS has answered once."""
    counters = ControllerCounters()
    counters.count_call("CreateVolume", "OK", 0.3)
    counters.count_request("CreateVolume", "denied")
    counters.note_orphans({"volume": 1, "snapshot": 2})
    counters.note_orphans({"volume": 3, "snapshot": 0})
    answered = [counters.was_answered]
    counters.count_request("DescribeVolumes", "done")
    assert [*answered, counters.was_answered] == [False, True]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving_metrics(counters, port), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    assert 'ebs_agent_controller_calls_total{code="OK",method="CreateVolume"} 1.0' in text
    assert 'ebs_agent_controller_cloud_requests_total{operation="CreateVolume",outcome="denied"} 1.0' in text
    assert 'ebs_agent_controller_call_duration_seconds_count{method="CreateVolume"} 1.0' in text
    assert 'ebs_agent_controller_orphans{kind="volume"} 3.0' in text


def test_who_looks_for_orphans_no_more_tells_of_none() -> None:
    """Another replica does, and two numbers would be one too many."""
    counters = ControllerCounters()
    counters.note_orphans({"volume": 3})
    counters.note_orphans(None)
    assert counters.registry.get_sample_value("ebs_agent_controller_orphans", {"kind": "volume"}) is None


def test_a_port_in_use_is_told() -> None:
    """The message names the option."""
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))  # noqa: S104 - what the metrics listen at
        taken.listen()
        with (
            pytest.raises(AgentError, match="--metrics-port"),
            serving_metrics(ControllerCounters(), taken.getsockname()[1]),
        ):
            pass
