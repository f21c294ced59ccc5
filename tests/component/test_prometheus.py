"""What is shipped for Prometheus and Grafana, with the real Prometheus scraping the agent's real face."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import yaml

from agent.controller.counting import ControllerCounters, serving_metrics
from agent.core.model import AwsChecks, Condition, Reason
from agent.core.replace import replace
from agent.report.agent_counters import Counters
from agent.report.board.board import Board
from agent.report.board.readings import Verdict
from agent.report.endpoints.http import make_app
from agent.report.http.serve import HTTP_LIMITS, Server
from agent.report.metrics.exposition import Exposition
from agent.report.serving.doors import HttpFace
from agent.report.serving.flood_log import Tally
from agent.report.serving.sockets import Listen
from tests.agent_process import reserve_port
from tests.prometheus import CONTROLLER_RULES, MONITORING, RULES, Prometheus, run_prometheus
from tests.unit.report.metrics.test_exposition import HEALTH, make_sampled_board
from tests.unit.report.samples import CHECKPOINTS, GIB, READY

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]

TESTS = {RULES: "rules.test.yml", CONTROLLER_RULES: "controller.test.yml"}
DASHBOARDS = tuple(sorted((MONITORING / "grafana").glob("*.json")))
STALLED = Verdict(Condition.FAILED, Reason.STALLED, "It does not answer.", "Wait.")


@pytest.mark.needs("promtool")
def test_alert_rules() -> None:
    """The alerts are valid, and fire for what they are for and for nothing else."""
    shipped = [RULES.name, CONTROLLER_RULES.name]
    for arguments in (["check", "rules", *shipped], ["test", "rules", *TESTS.values()]):
        done = subprocess.run(
            ["promtool", *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", TESTS)
def test_every_alert_is_tested_and_leads_somewhere(path: Path) -> None:
    """Each alert is named in the rules' tests, and its runbook is a page and a heading that exist."""
    tests = (RULES.parent / TESTS[path]).read_text()
    rules = [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    for rule in rules:
        name = rule.get("alert") or rule["record"]
        assert name in tests, name
        if "alert" not in rule:
            continue
        page, _, heading = rule["annotations"]["runbook_url"].partition("#")
        text = (MONITORING.parent / page).read_text()
        titles = (line.lstrip("# ").lower() for line in text.splitlines() if line.startswith("#"))
        headings = {re.sub(r"[^\w -]", "", title).replace(" ", "-") for title in titles}
        assert not heading or heading in headings, (name, heading)


@pytest.mark.needs("promtool")
@pytest.mark.parametrize("name", ["slurm.yml", "eks.yml"])
def test_scrape_examples(name: str, tmp_path: Path) -> None:
    """The examples of how to scrape are valid configurations."""
    config = yaml.safe_load((MONITORING / "scrape" / name).read_text())
    for scrape in config["scrape_configs"]:
        # Debian's Prometheus is built without Kubernetes; everything else of the example is checked.
        if scrape.pop("kubernetes_sd_configs", None) is not None:
            scrape["static_configs"] = [{"targets": ["127.0.0.1:9842"]}]
    (tmp_path / name).write_text(yaml.safe_dump(config))
    done = subprocess.run(
        ["promtool", "check", "config", "--syntax-only", str(tmp_path / name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@asynccontextmanager
async def scraping(board: Board, counters: Counters, directory: Path) -> AsyncIterator[Prometheus]:
    """Have a Prometheus scrape an agent's face."""
    app = make_app(board, Exposition(board, counters))
    async with anyio.create_task_group() as tasks:
        face = HttpFace(Server(app, HTTP_LIMITS, Tally("http")), Listen(port=0))
        await tasks.start(face.run)
        async with run_prometheus(directory, face.port) as prometheus:
            yield prometheus
        tasks.cancel_scope.cancel()


@pytest.mark.needs("prometheus")
async def test_alert_fires_for_a_stalled_volume(tmp_path: Path) -> None:
    """A real Prometheus scrapes the agent, answers its numbers, and fires when a volume stalls."""
    board = make_sampled_board()
    async with scraping(board, Counters(), tmp_path) as prometheus:
        found = await prometheus.until("ebs_agent_volume_read_ops_total")
        assert found[0]["value"][1] == "3"
        assert found[0]["metric"]["volume_id"] == CHECKPOINTS
        board.judge(CHECKPOINTS, replace(HEALTH, verdicts=(STALLED,)))
        firing = await prometheus.until('ALERTS{alertstate="firing", alertname="EbsVolumeStalled"}')
        assert firing[0]["metric"]["volume_id"] == CHECKPOINTS
        targets = (await prometheus.ask("targets"))["activeTargets"]
        assert [target["lastError"] for target in targets] == [""]


@pytest.mark.needs("prometheus")
async def test_alert_fires_for_what_is_left(tmp_path: Path) -> None:
    """A real Prometheus scrapes a controller's numbers; the alert ends when nothing is left."""
    counters, port = ControllerCounters(), reserve_port()
    with serving_metrics(counters, port):
        async with run_prometheus(tmp_path, port) as prometheus:
            counters.note_orphans({"volume": 2, "snapshot": 0})
            (firing,) = await prometheus.until('ALERTS{alertstate="firing"}')
            assert firing["metric"]["alertname"] == "EbsControllerOrphans"
            assert firing["metric"]["kind"] == "volume"
            counters.note_orphans({"volume": 0, "snapshot": 0})
            await prometheus.until('absent(ALERTS{alertname="EbsControllerOrphans"})')


@pytest.mark.needs("prometheus")
async def test_every_query_of_the_dashboard_answers(tmp_path: Path) -> None:
    """Each query of a dashboard finds series in what the agent really exposes, none misspelt.

    A quotient of two rates of nothing is NaN, which is an answer all the same.
    """
    silent = {"Nodes not seen, and since when"}  # all are; tests of the rules have one that is not
    asked = [
        (panel["title"], fill_in(target["expr"]))
        for dashboard in DASHBOARDS
        for panel in json.loads(dashboard.read_text())["panels"]
        for target in panel["targets"]
    ]
    async with scraping_a_busy_node(tmp_path) as prometheus:
        with anyio.move_on_after(30):
            for title, expression in list(asked):
                if title in silent:
                    await prometheus.query(expression)
                else:
                    await prometheus.until(expression)
                asked.remove((title, expression))
        assert asked == []


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboard_is_whole(path: Path) -> None:
    """Its panels have numbers of their own and a place of their own; it uses only variables that it has."""
    shown = json.loads(path.read_text())
    assert shown["uid"] == path.stem
    panels = shown["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(places)) == len(places)
    assert all(x < 24 for x, _ in places)
    known = {variable["name"] for variable in shown["templating"]["list"]} | {"__rate_interval", "__data"}
    used = set(re.findall(r"\$\{?(\w+)", path.read_text()))
    assert used <= known
    for panel in panels:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references) > 0


@pytest.mark.needs("prometheus")
async def test_every_name_in_rules_and_dashboard_is_one_of_the_agent_s(tmp_path: Path) -> None:
    """Each metric, condition and reason that a rule, a query or a variable names is one that there is."""
    told = "".join(path.read_text() for path in (RULES, RULES.parent / "rules.test.yml", *DASHBOARDS))
    metrics = set(re.findall(r"\bebs_agent_\w+", told))
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    assert set(re.findall(r"\bebs_agent:[\w:]+", told)) <= recorded
    async with scraping_a_busy_node(tmp_path) as prometheus:
        assert [name for name in sorted(metrics) if not await prometheus.query(name)] == []
    for label, known in (("condition", Condition), ("reason", Reason)):
        values = re.findall(rf'\b{label}=~?\\?"([\w|]+)', told)
        assert {word for value in values for word in value.split("|")} <= {each.value for each in known}


@asynccontextmanager
async def scraping_a_busy_node(directory: Path) -> AsyncIterator[Prometheus]:
    """Have a Prometheus scrape an agent some of whose numbers have moved from one scrape to another."""
    board, counters = make_sampled_board(), Counters()
    counters.note_certificate("http", 2e9)
    assert HEALTH.sample is not None
    assert HEALTH.sample.mount is not None
    mount = replace(HEALTH.sample.mount, errors=1)
    health = replace(HEALTH, sample=replace(HEALTH.sample, mount=mount))
    board.put_persistent_volumes({CHECKPOINTS: "pvc-1"})
    board.put_checks({CHECKPOINTS: AwsChecks("ok", is_io_enabled=True)})
    async with scraping(board, counters, directory) as prometheus:
        await prometheus.until("ebs_agent_build_info")
        for number in range(4):
            counters.count_step("mount", "failed")
            counters.count_cloud_request("DescribeVolumes", "done")
            counters.count_attach(0.2)
            board.publish(replace(READY, message=str(number)))
            board.judge(CHECKPOINTS, bump(health, number))
            await prometheus.until(f"ebs_agent_volume_read_ops_total == {100 * number + 3}")
        yield prometheus


def bump(health: Any, number: int) -> Any:
    """Return a later sample, in which more was done."""
    read = replace(health.statistics.read, ops=100 * number + 3, total_bytes=1 << (20 + number))
    write = replace(health.statistics.write, ops=100 * number + 1)
    statistics = replace(
        health.statistics, read=read, write=write, exceeded_volume_iops_us=(number + 1) * 100_000_000
    )
    mount = replace(health.sample.mount, size_bytes=100 * GIB, avail_bytes=(20 - number) * GIB)
    return replace(health, sample=replace(health.sample, mount=mount), statistics=statistics)


def fill_in(expression: str) -> str:
    """Return a query with the dashboard's variables as Grafana fills them in."""
    expression = expression.replace("$__rate_interval", "30s")
    for variable in ("instance_group", "instance", "volume", "cluster"):
        expression = expression.replace(f"${variable}", ".*")
    assert "$" not in expression
    return expression
