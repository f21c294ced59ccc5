"""The catalogue's part about AWS's own status checks: the metrics of what AWS said when it was last asked."""

from __future__ import annotations

from collections.abc import Callable

from agent.core.model import AwsChecks, Initialization
from agent.report.board.volume_status import VolumeStatus
from agent.report.metrics.series import Family, Number, define_number


def _of_checks(read: Callable[[AwsChecks], Number]) -> Callable[[VolumeStatus], Number]:
    return lambda status: None if status.checks is None else read(status.checks)


def _of_initialization(read: Callable[[Initialization], Number]) -> Callable[[VolumeStatus], Number]:
    return _of_checks(lambda checks: None if checks.initialization is None else read(checks.initialization))


def _count_left_s(coming: Initialization) -> Number:
    return 0 if coming.is_done else coming.left_s


AWS_FAMILIES: tuple[Family, ...] = (
    define_number(
        "volume_impaired",
        "gauge",
        "1 if one of AWS's status checks of the volume fails.",
        _of_checks(lambda checks: checks.is_impaired),
    ),
    define_number(
        "volume_io_enabled",
        "gauge",
        "0 if AWS has switched off I/O to the volume.",
        _of_checks(lambda checks: checks.is_io_enabled),
    ),
    define_number(
        "volume_initialization_ratio",
        "gauge",
        "How much of its content has come from the snapshot or volume it was made from.",
        _of_initialization(lambda coming: coming.percent / 100),
    ),
    define_number(
        "volume_initialization_remaining_seconds",
        "gauge",
        "AWS's estimate of how long it takes until all of that has come.",
        _of_initialization(_count_left_s),
    ),
)
