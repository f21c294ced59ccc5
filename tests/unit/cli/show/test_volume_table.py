from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from typing import Any

import pytest

from agent.cli.show.fitting_table import WIDE_COLUMNS
from agent.cli.show.render import print_view, show_volume
from agent.cli.show.volume_table import list_names, show_volumes, show_volumes_wide
from agent.core.model import Condition
from agent.core.replace import replace
from agent.report import api
from tests.unit.report.samples import CHECKPOINTS, READY, REFUSED, make_board, make_status

LONG = "/data/teams/" + "a-rather-long-name/" * 3 + "checkpoints"


def draw(answer: dict[str, Any], width: int, *, is_wide: bool = False) -> list[str]:
    """Return the lines that are printed on so many columns."""
    out = io.StringIO()
    with redirect_stdout(out):
        print_view(show_volumes_wide(answer) if is_wide else show_volumes(answer), width)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [300, 160, 120, 100, 80, 60, 40, 20])
@pytest.mark.parametrize("path", ["/data/ckpt", LONG], ids=["short", "long"])
def test_no_id_and_no_path_is_broken(width: int, path: str) -> None:
    """Both can be copied from a terminal of any width: columns go before a word is cut in two."""
    lines = draw(api.show_node(make_board(replace(READY, path=path), REFUSED)), width)
    text = "\n".join(lines)
    for word in (path, str(READY.volume_id), "checkpoints", "Ready"):
        assert word in text


def test_columns_that_matter_least_go_first() -> None:
    """At 80 columns the table is still one, and without what ``-o wide`` has."""
    answer = api.show_node(make_board(READY, make_status(condition=Condition.LOST)))
    head = draw(answer, 80)[0].split()
    assert head[:4] == ["VOLUME", "CONDITION", "USED", "AT"]
    assert "STEP" not in head
    assert "STEP" in draw(answer, 160)[0]
    wide = draw(answer, WIDE_COLUMNS, is_wide=True)[0]
    assert "SINCE" in wide
    assert "LAST STEP" in wide


def test_the_claims_of_pods_have_a_column() -> None:
    """Where there are any, in the table of all columns; a volume's own lines name both in any case."""
    board = make_board(READY, REFUSED)
    assert "PVC" not in draw(api.show_node(board), WIDE_COLUMNS, is_wide=True)[0]
    board.put_claims({CHECKPOINTS: "training/data"})
    board.put_persistent_volumes({CHECKPOINTS: "pvc-1"})
    answer = api.show_node(board)
    wide = draw(answer, WIDE_COLUMNS, is_wide=True)
    assert wide[0].split()[-3:] == ["PVC", "LAST", "STEP"]
    assert [word in "\n".join(wide) for word in ("training/data", "pvc-1")] == [True, True]
    assert "PVC" not in draw(answer, 160)[0]
    out = io.StringIO()
    with redirect_stdout(out):
        print_view(show_volume(next(one for one in answer["volumes"] if one["persistent_volume"])))
    assert re.search("^  PVC +training/data *$", out.getvalue(), re.MULTILINE)
    assert re.search("^  PV +pvc-1 *$", out.getvalue(), re.MULTILINE)


def test_the_worst_is_first() -> None:
    """Whoever looks at a node with sixty volumes sees on top what is wrong; what is nobody's comes last."""
    worst_first = ["Failed", "Degraded", "Pending", "Ready", "Unmanaged"]
    conditions = [Condition(word) for word in reversed(worst_first)]
    statuses = [
        make_status(volume_id=f"vol-0123456789abcdef{number}", name=condition.value, condition=condition)
        for number, condition in enumerate(conditions)
    ]
    answer = api.show_node(make_board(*statuses))
    assert list_names(answer) == worst_first
    rows = [line.split()[0] for line in draw(answer, 160)[1:] if line[:1].isalpha()]
    assert [word for word in rows if word in worst_first] == worst_first


def test_every_condition_has_its_place_and_sign() -> None:
    """None is unknown to the order, and each is told by its sign where there are no colours."""
    for condition in Condition:
        answer = api.show_node(make_board(make_status(condition=condition)))
        assert condition.value in "\n".join(draw(answer, 160))
        assert not any("?" in line.split() for line in draw(answer, 160))
