"""What the fleet's dashboard costs Prometheus, with and without its rules: 1,000 nodes with 20 volumes each.

A real one scrapes a thousand targets with those series of the agent that the rules read. Each query of the
dashboard is asked as it is, and once more with what its rule records written out in its place.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.prometheus import RULES, start_prometheus
from tests.scraped import serving_metrics

NODES, VOLUMES = 1000, 20
INTERVAL_S = 15
WARM_S = 150
"""For the rates of five minutes to have something to be made of."""
RANGE_S, STEP_S = 120, 15
MONITORING = Path(__file__).parents[1] / "monitoring"
DASHBOARD = MONITORING / "grafana/ebs-agent-fleet.json"
CONDITIONS = ("Ready", "Degraded", "Failed", "Refused", "Lost", "Pending", "Preparing", "Unmanaged")


def list_lines(node: int, turn: int) -> Iterator[str]:
    """Yield the series of a node; one volume of a hundred is nearly full, one of fifty throttled."""
    yield 'ebs_agent_build_info{version="0.1.0",python="3.10"} 1'
    yield "ebs_agent_ready 1"
    for number in range(VOLUMES):
        serial = node * VOLUMES + number
        by = f'volume_id="vol-{serial:017x}"'
        is_bad, busy = serial % 100 == 0, turn * INTERVAL_S if serial % 50 == 0 else 0
        labels = f'{by},name="v{number}",device="/dev/nvme{number}n1",mountpoint="/v{number}",fstype="ext4"'
        yield f"ebs_agent_volume_info{{{labels}}} 1"
        for condition in CONDITIONS:
            is_it = condition == ("Degraded" if is_bad else "Ready")
            yield f'ebs_agent_volume_condition{{{by},condition="{condition}"}} {int(is_it)}'
        if is_bad:
            yield f'ebs_agent_volume_problem{{{by},reason="NearlyFull"}} 1'
        yield f"ebs_agent_volume_stalled{{{by}}} 0"
        yield f"ebs_agent_filesystem_size_bytes{{{by}}} {10**11}"
        yield f"ebs_agent_filesystem_avail_bytes{{{by}}} {10**10 - turn if is_bad else 5 * 10**10}"
        yield f"ebs_agent_filesystem_readonly{{{by}}} 0"
        for name in ("exceeded_iops", "exceeded_tp", "ec2_exceeded_iops", "ec2_exceeded_tp"):
            yield f"ebs_agent_volume_{name}_seconds_total{{{by}}} {busy}"
        yield f"ebs_agent_volume_snapshot_due_timestamp_seconds{{{by}}} {10**10}"
        yield f"ebs_agent_volume_snapshot_last_success_timestamp_seconds{{{by}}} 1"


@contextmanager
def serving_nodes() -> Iterator[int]:
    """Give the port at which each node's metrics are at a path of its own."""
    turns = [0] * NODES

    def render(path: str) -> bytes:
        node = int(path.strip("/"))
        turns[node] += 1
        return ("\n".join(list_lines(node, turns[node])) + "\n").encode()

    with serving_metrics(render) as port:
        yield port


@contextmanager
def running_prometheus(directory: Path, scraped_port: int) -> Iterator[tuple[str, int]]:
    """Give the address and the process of a Prometheus that scrapes them and has the rules."""
    targets = [
        {
            "targets": [f"127.0.0.1:{scraped_port}"],
            "labels": {
                "__metrics_path__": f"/{node}",
                "instance": f"n{node}",
                "cluster": f"c{node % 4}",
                "instance_group": f"g{node % 10}",
            },
        }
        for node in range(NODES)
    ]
    every = f"{INTERVAL_S}s"
    (directory / "ours.rules.yml").write_text(RULES.read_text().replace("interval: 1m", f"interval: {every}"))
    config = {
        "global": {"scrape_interval": every, "evaluation_interval": every},
        "rule_files": ["ours.rules.yml"],
        "scrape_configs": [{"job_name": "ebs-agent", "static_configs": targets}],
    }
    with start_prometheus(directory, config) as (port, pid):
        yield f"http://127.0.0.1:{port}/api/v1", pid


def ask(url: str, path: str, **parameters: str) -> tuple[float, int, Any]:
    """Return how long an answer took, how many bytes and what it was."""
    began = time.perf_counter()
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{url}/{path}?{query}", timeout=300) as answer:  # noqa: S310 -- of this host
        content = answer.read()
    return time.perf_counter() - began, len(content), json.loads(content)


def read_rules() -> dict[str, str]:
    """Return what each rule records, by its name; of those that share a name all."""
    recorded: dict[str, list[str]] = {}
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                recorded.setdefault(rule["record"], []).append(f"({rule['expr'].strip()})")
    return {name: f"({' or '.join(parts)})" for name, parts in recorded.items()}


def write_out(expression: str, rules: dict[str, str]) -> str:
    """Return a query with what rules record in place of their names; what was chosen is all."""
    return re.sub(r"(ebs_agent:[\w:]+)(\{[^}]*\})?", lambda found: rules[found[1]], expression)


def list_queries() -> Iterator[tuple[str, str, bool]]:
    """Yield the title of each panel, its query, and whether it is asked for one moment."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            expression = re.sub(r"\$\w+", ".*", target["expr"])
            yield panel["title"], expression, target.get("instant", False)


def measure(url: str, expression: str, *, is_instant: bool) -> str:
    """Return how long a query takes, as text."""
    if is_instant:
        took_s, size, _ = ask(url, "query", query=expression)
    else:
        end = int(time.time())
        span = {"start": str(end - RANGE_S), "end": str(end), "step": str(STEP_S)}
        took_s, size, _ = ask(url, "query_range", query=expression, **span)
    return f"{took_s * 1e3:9.1f} ms {size / 1000:8.1f} kB"


def read_resident_bytes(pid: int) -> int:
    """Return what a process has in memory, of its own and shared."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def main() -> None:
    """Print what each query of the dashboard takes."""
    rules = read_rules()
    with (
        tempfile.TemporaryDirectory() as directory,
        serving_nodes() as port,
        running_prometheus(Path(directory), port) as (url, pid),
    ):
        time.sleep(WARM_S)
        _, _, head = ask(url, "query", query="prometheus_tsdb_head_series or sum(scrape_samples_scraped)")
        print(
            f"{NODES} nodes, {VOLUMES} volumes each: {head['data']['result'][0]['value'][1]} samples a scrape"
        )
        print(
            f"Prometheus has {read_resident_bytes(pid) >> 20} MiB in memory. Each panel, and without rules:"
        )
        total = [0.0, 0.0]
        for title, expression, is_instant in list_queries():
            ways = [expression]
            # Over a time it takes as often as there are points, which is minutes.
            if is_instant and "ebs_agent:" in expression and "last_over_time" not in expression:
                ways.append(write_out(expression, rules))
            told = [measure(url, way, is_instant=is_instant) for way in ways]
            for place in range(2):
                total[place] += float(told[min(place, len(told) - 1)].split()[0])
            print(f"  {title:46} {told[0]}   {told[1] if len(told) > 1 else ''}", flush=True)
        print(f"  {'all':46} {total[0]:9.1f} ms   without rules {total[1]:9.1f} ms and what was not asked")
        print(f"Prometheus has {read_resident_bytes(pid) >> 20} MiB in memory now.")
        _, _, groups = ask(url, "rules", type="record")
        for group in groups["data"]["groups"]:
            print(f"  the rules of {group['name']} take {group['evaluationTime'] * 1e3:.0f} ms each time")


if __name__ == "__main__":
    main()
