"""How far the content of a volume is, as DescribeVolumeStatus says it in two places."""

from __future__ import annotations

from typing import Any

import pytest

from agent.cloud.aws.volume_status import parse_volume_status
from agent.core.model import Initialization
from tests.aws.answers import CHECKED


@pytest.mark.parametrize(
    ("state", "details", "read"),
    [
        (None, None, None),
        ("completed", None, None),
        ("initializing", None, Initialization(0)),
        ("initializing", {"Progress": 100}, Initialization(99)),
        ("initializing", {"Progress": 40, "InitializationType": "x"}, Initialization(40, kind="x")),
        ("completed", {"Progress": 100}, Initialization(100)),
        (None, {"Progress": 7, "EstimatedTimeToCompleteInSeconds": 60}, Initialization(7, 60)),
    ],
)
def test_both_have_to_say_that_it_is_done(
    state: str | None, details: dict[str, Any] | None, read: Initialization | None
) -> None:
    checks = [] if state is None else [{"Name": "initialization-state", "Status": state}]
    told: dict[str, Any] = {**CHECKED, "VolumeStatus": {"Status": "ok", "Details": checks}}
    told.pop("InitializationStatusDetails")
    if details is not None:
        told["InitializationStatusDetails"] = details
    assert parse_volume_status(told).checks.initialization == read
