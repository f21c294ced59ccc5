from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import AgentError
from agent.core.model import DeviceNumber, Tuning
from agent.node.device.tuning import parse_scheduler, read_tuning, set_tuning

NUMBER = DeviceNumber(259, 3)


def make_queue(sysfs: Path, **settings: str) -> Path:
    queue = sysfs / "dev/block" / str(NUMBER) / "queue"
    queue.mkdir(parents=True)
    for name, value in settings.items():
        (queue / name).write_text(value)
    return queue


def test_tuning_is_read_and_set(tmp_path: Path) -> None:
    """Bytes become the KiB of sysfs, and the scheduler is the one in brackets."""
    queue = make_queue(tmp_path, read_ahead_kb="128\n", scheduler="[none] mq-deadline kyber\n")
    assert read_tuning(NUMBER, tmp_path) == Tuning(128 * 1024, "none")
    set_tuning(NUMBER, 4 << 20, "mq-deadline", tmp_path)
    assert (queue / "read_ahead_kb").read_text().startswith("4096")
    assert (queue / "scheduler").read_text().startswith("mq-deadline")


def test_unset_tuning_is_left_alone(tmp_path: Path) -> None:
    """What the policy does not name keeps its value."""
    queue = make_queue(tmp_path, read_ahead_kb="128\n", scheduler="[none]\n")
    set_tuning(NUMBER, None, None, tmp_path)
    assert (queue / "read_ahead_kb").read_text() == "128\n"


def test_gone_device_cannot_be_tuned(tmp_path: Path) -> None:
    """Settings that are not there are unknown, are not created, and setting them says so."""
    assert read_tuning(NUMBER, tmp_path) == Tuning()
    make_queue(tmp_path)
    with pytest.raises(AgentError, match="read_ahead_kb"):
        set_tuning(NUMBER, 4096, None, tmp_path)
    assert list((tmp_path / "dev/block" / str(NUMBER) / "queue").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "scheduler"),
    [("none\n", None), ("mq-deadline [kyber] bfq none\n", "kyber"), ("", None), ("[none]\n", "none")],
)
def test_scheduler_is_the_bracketed_one(text: str, scheduler: str | None) -> None:
    """Without brackets none is chosen."""
    assert parse_scheduler(text) == scheduler
