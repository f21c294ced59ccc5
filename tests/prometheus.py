"""A Prometheus of the test's own: it scrapes one agent often and has the alerts that are shipped."""

from __future__ import annotations

import re
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import yaml

from tests.agent_process import reserve_port

MONITORING = Path(__file__).parents[1] / "monitoring"
RULES = MONITORING / "prometheus/ebs-agent.rules.yml"
CONTROLLER_RULES = MONITORING / "prometheus/ebs-controller.rules.yml"
ANSWER_S = 120.0


class Prometheus:
    """Its API."""

    def __init__(self, http: aiohttp.ClientSession, port: int) -> None:
        self._http = http
        self._url = f"http://127.0.0.1:{port}/api/v1"

    async def ask(self, path: str, **parameters: str) -> Any:
        async with self._http.get(f"{self._url}/{path}", params=parameters) as answer:
            body = await answer.json()
        assert body["status"] == "success", body
        return body["data"]

    async def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await self.ask("query", query=expression))["result"]
        return found

    async def until(self, expression: str) -> list[dict[str, Any]]:
        """Return the first answer to a query that is not empty."""
        with anyio.fail_after(ANSWER_S):
            while True:
                try:
                    if found := await self.query(expression):
                        return found
                except (aiohttp.ClientError, AssertionError):
                    pass  # it is starting
                await anyio.sleep(0.1)


@asynccontextmanager
async def run_prometheus(
    directory: Path, scraped_port: int, interval: str = "250ms"
) -> AsyncIterator[Prometheus]:
    """Have a Prometheus scrape what is at a port of this machine; its alerts wait no minutes."""
    config = _make_config(directory, scraped_port, interval)
    with start_prometheus(directory, config) as (port, _):
        async with aiohttp.ClientSession() as http:
            yield Prometheus(http, port)


@contextmanager
def start_prometheus(directory: Path, config: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """Give the port and the process ID of a Prometheus with this configuration, which is starting."""
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = reserve_port()
    argv = [
        "prometheus",
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield port, process.pid
    finally:
        process.kill()
        process.wait()


def _make_config(directory: Path, scraped_port: int, interval: str) -> dict[str, Any]:
    """Write the rules, and return a configuration that has them."""
    for shipped in (RULES, CONTROLLER_RULES):
        rules = re.sub(r"for: \d+[mh]", "for: 500ms", shipped.read_text())
        rules = re.sub(r"interval: \d+m", f"interval: {interval}", rules)
        (directory / shipped.name).write_text(rules)
    targets = [{"targets": [f"127.0.0.1:{scraped_port}"]}]
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": ["*.rules.yml"],
        "scrape_configs": [{"job_name": "ebs-agent", "static_configs": targets}],
    }
