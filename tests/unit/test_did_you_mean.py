"""Wherever a name is unknown, the one that was probably meant is told, in the same words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.cli.fleet.rows import Choice, Row, make_view
from agent.cloud.orders.request_fields import check_request, find_volume, read_modification
from agent.controller.service.parse_class import parse_storage_class
from agent.core.errors import AgentError
from agent.core.model import NodeFacts, Origin, VolumeId
from agent.policy import Candidate
from agent.policy.reading import read_policy
from agent.policy.values.mkfs_options import find_refused_options
from agent.policy.values.mount_path import parse_template
from agent.report.endpoints.page import render_page, show_content
from tests.unit.policy.samples import VOL_A, make_policy
from tests.unit.report.page_samples import make_trends
from tests.unit.report.samples import CHECKPOINTS, NOON, READY, make_board

FLEET = (Row("prod", "compute-1", "vol-0123456789abcdef0", "Ready"),)


def fail(act: Callable[..., object], *words: object) -> str:
    """Return the sentence and the hint of the error that an act ends with."""
    with pytest.raises(AgentError) as raised:
        act(*words)
    return f"{raised.value.message} {raised.value.hint}"


def check(text: str) -> str:
    return "\n".join(problem.describe() for problem in read_policy(text)[1])


def run(*words: str) -> str:
    return CliRunner().invoke(app, list(words)).output


def match_by_tag() -> str:
    policy = make_policy("volumes: [{name: a, match: {tags: {nmae: x}}, block: {}}]")
    volume = Candidate(VOL_A, None, None, Origin(tags=(("name", "x"),)))
    return str(policy.explain(volume, NodeFacts()))


def filter_fleet(reason: str) -> str:
    return fail(lambda: CliRunner().invoke(app, ["fleet", "--reason", reason], catch_exceptions=False))


def show_page() -> str:
    board = make_board(READY)
    return render_page(show_content(board, make_trends(board)), NOON, "chekpoints")


PLACES: dict[str, tuple[Callable[[], str], str]] = {
    "policy key": (lambda: check("version: 1\nvolumse: []"), "Did you mean volumes?"),
    "policy word": (
        lambda: check("version: 1\nagent: {cloud: {attach_api: ec3}}"),
        "Did you mean ec2?",
    ),
    "class": (
        lambda: check(
            "version: 1\nclasses: {usual: {type: gp3}}\n"
            "volumes: [{name: a, claim: {class: usuall, size: 1GiB}, block: {}}]"
        ),
        "Did you mean usual? The classes are usual.",
    ),
    "field of a path": (
        lambda: fail(parse_template, "/data/{instance_nam}"),
        "Did you mean {instance_name}?",
    ),
    "word of mkfs": (
        lambda: str(list(find_refused_options("ext4", ["-E", "lazy_itable_ini=1"]))),  # type: ignore[arg-type]
        "Did you mean lazy_itable_init?",
    ),
    "volume of an order": (
        lambda: fail(find_volume, make_board(READY), "chekpoints"),
        "Did you mean checkpoints? Volumes known here: checkpoints.",
    ),
    "volume's ID": (
        lambda: fail(find_volume, make_board(READY), CHECKPOINTS[:-1]),
        f"Did you mean {CHECKPOINTS}?",
    ),
    "volume's path": (lambda: fail(find_volume, make_board(READY), "/data/ckp"), "Did you mean /data/ckpt?"),
    "word of an order": (lambda: fail(check_request, "expand", {"siez": "1"}), "Did you mean size?"),
    "type of a volume": (
        lambda: fail(read_modification, VolumeId(CHECKPOINTS), {"type": "pg3"}),
        "Did you mean gp3?",
    ),
    "parameter of a class": (
        lambda: fail(parse_storage_class, {"trougput": "125"}, ()),
        "Did you mean throughput?",
    ),
    "page": (show_page, 'Did you mean <a href="?volume=checkpoints">checkpoints</a>?'),
    "command": (lambda: run("statsu"), "Did you mean 'status'?"),
    "command of commands": (lambda: run("csi", "migrat"), "Did you mean 'migrate'?"),
    "option": (lambda: run("status", "--outptu", "json"), "--output"),
    "reason": (
        lambda: filter_fleet("Staled"),
        "Did you mean Stalled?",
    ),
    "condition": (
        lambda: filter_fleet("redy"),
        "Did you mean Ready?",
    ),
    "node of a fleet": (
        lambda: str(make_view(FLEET, Choice(node="compute1")).remark),
        "No node here is called compute1. Did you mean compute-1?",
    ),
    "cluster of a fleet": (
        lambda: str(make_view(FLEET, Choice(cluster="porod")).remark),
        "Did you mean prod?",
    ),
    "tag": (match_by_tag, "there is none, but one called 'name'"),
}


@pytest.mark.parametrize("place", PLACES)
def test_what_was_meant_is_told(place: str) -> None:
    """A slip of the hand costs one look at the answer."""
    tell, said = PLACES[place]
    assert said in tell()
