from __future__ import annotations

from typing import Any

import pytest

from agent.cloud.orders.named_volumes import NewVolume
from agent.cloud.orders.request_fields import (
    FIELDS,
    check_request,
    find_volume,
    parse_snapshot_id,
    read_modification,
    read_new_volume,
)
from agent.cloud.orders.routes import ORDERS
from agent.core.errors import AgentError, ExitCode
from agent.core.model import VolumeId
from agent.report.board.board import Board


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "needs a size, or a snapshot"),
        ({"size": "5"}, "5"),
        ({"size": "5000MiB"}, "whole GiB"),
        ({"size": "65TiB"}, "gp3 volume has 1GiB to 64TiB"),
        ({"size": "1GiB", "type": "st1"}, "st1 volume has 125GiB to 16TiB"),
        ({"size": "5GiB", "type": "gp2", "iops": 3000}, "IOPS of gp2 volumes cannot be chosen"),
        ({"size": "5GiB", "type": "io2", "iops": 3000, "throughput": 500}, "throughput of io2"),
        ({"size": "5GiB", "type": "io2"}, "io2 volumes need iops"),
        ({"size": "5GiB", "type": "gp9"}, "type"),
        ({"size": "5GiB", "iops": -1}, "iops"),
        ({"size": "5GiB", "iops": "many"}, "iops"),
        ({"size": "5GiB", "kms_key_id": "k", "encrypted": False}, "encrypted is false"),
        ({"from": "snap-123"}, "not an EBS snapshot ID"),
    ],
)
def test_contradictory_volume_is_refused(words: dict[str, Any], message: str) -> None:
    """A volume whose words contradict each other is not asked for; what is wrong is named."""
    with pytest.raises(AgentError, match=message):
        read_new_volume(words)


def test_sound_volume_is_read() -> None:
    """What is asked for is what is made."""
    words = {"size": "500GiB", "iops": 6000, "kms_key_id": "alias/k", "name": "x"}
    assert read_new_volume(words) == NewVolume(
        500, "gp3", 6000, is_encrypted=True, kms_key_id="alias/k", name="x"
    )


@pytest.mark.parametrize(
    "text", ["", "vol-", "vol-0123", "snap-0123456789abcdef0", "vol-0123456789ABCDEF0", "x/../y"]
)
def test_what_is_no_volume(text: str) -> None:
    """A text that names no known volume and is no ID is an error that shows one."""
    with pytest.raises(AgentError, match="No volume is called") as raised:
        find_volume(Board(), text)
    assert "vol-0123456789abcdef0" in str(raised.value.hint)


@pytest.mark.parametrize(
    "text", ["", None, 7, "snap-", "snap-0123", "vol-0123456789abcdef0", "snap-0123456789abcdeg0"]
)
def test_what_is_no_snapshot(text: object) -> None:
    """An ID that is none is wrong usage, and a right one is shown."""
    with pytest.raises(AgentError, match="not an EBS snapshot ID") as raised:
        parse_snapshot_id(text)
    assert raised.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("order", "words", "message"),
    [
        ("detach", {"volume": "data", "force": "false"}, "force of detach is true or false"),
        ("detach", {"volume": "data", "force": 1}, "force of detach is true or false"),
        ("detach", {"volume": "data", "force": []}, "force of detach is true or false"),
        ("detach", {"volume": ["data"]}, "volume of detach is a text"),
        ("detach", {"volume": "data", "froce": True}, "detach takes no word 'froce'"),
        ("attach", {"volume": "data", "force": True}, "attach takes no word 'force'"),
        ("snapshot", {"volume": "data", "freeze": "no"}, "freeze of snapshot is true or false"),
        ("snapshot", {"volume": "data", "wait": 0}, "wait of snapshot is true or false"),
        ("create", {"size": 5}, "size of create is a text"),
        ("create", {"size": "5GiB", "encrypted": "false"}, "encrypted of create is true or false"),
        ("create", {"size": "5GiB", "type": True}, "type of create is a text, and not true"),
        ("modify", {"volume": "data", "type": ["gp3"]}, "type of modify is a text"),
        ("create", {"size": "5GiB", "iops": "3000"}, "iops of create is a whole number"),
        ("create", {"size": "5GiB", "iops": True}, "iops of create is a whole number"),
        ("create", {"size": "5GiB", "iops": 3000.0}, "iops of create is a whole number"),
        ("create", {"size": "5GiB", "name": {"a": 1}}, "name of create is a text"),
        ("modify", {"volume": "data", "type": 3}, "type of modify is a text"),
        ("attach", {"volume": "\ud800"}, "no text that anything is called by"),
        ("attach", {"volume": "a\x1b[2J"}, "no text that anything is called by"),
        ("attach", {"volume": "a" * 2000}, "no text that anything is called by"),
        ("delete-snapshot", {"snapshot": 7}, "snapshot of delete-snapshot is a text"),
    ],
)
def test_words_are_what_they_are_to_be(order: str, words: dict[str, Any], message: str) -> None:
    """A word of another type, or one that an order does not have, is not guessed at."""
    with pytest.raises(AgentError, match=message) as raised:
        check_request(order, words)
    assert raised.value.exit_code is ExitCode.USAGE


def test_words_of_the_command_line_are_taken() -> None:
    """What the commands send is what orders take, and what was not said may be null."""
    check_request("detach", {"volume": "data", "force": False})
    check_request("create", {"size": "5GiB", "iops": 3000, "encrypted": True, "name": None, "from": None})
    check_request("snapshot", {"volume": "data", "freeze": True, "wait": False})
    assert FIELDS.keys() == ORDERS.keys()


@pytest.mark.parametrize("words", [{"iops": 1 << 31}, {"type": "gp3", "iops": 1 << 31}, {"throughput": 0}])
def test_modification_beyond_all_counts_is_refused(words: dict[str, Any]) -> None:
    """A number that no volume has is wrong usage, whatever else is said."""
    with pytest.raises(AgentError, match="is not a number of at least 1") as raised:
        read_modification(VolumeId("vol-0123456789abcdef0"), words)
    assert raised.value.exit_code is ExitCode.USAGE
