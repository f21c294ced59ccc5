"""A value with some of its fields otherwise, be it a struct or a dataclass."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from msgspec import Struct

from agent.core.replace import replace


class Point(Struct, frozen=True):
    """A struct."""

    x: int
    y: int = 0


@dataclass(frozen=True)
class Place:
    """A dataclass."""

    x: int
    y: int = 0


@pytest.mark.parametrize("kind", [Point, Place])
def test_what_is_not_named_stays(kind: type[Point | Place]) -> None:
    before = kind(1, 2)
    assert replace(before, y=3) == kind(1, 3)
    assert before == kind(1, 2)


@pytest.mark.parametrize("kind", [Point, Place])
def test_a_field_that_there_is_not_is_an_error(kind: type[Point | Place]) -> None:
    with pytest.raises(TypeError, match="z"):
        replace(kind(1), z=3)  # type: ignore[call-arg]  # which the type checker finds as well
