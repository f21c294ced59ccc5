"""A Prometheus of the test's own: it scrapes one agent often and has the alerts that are shipped."""

from __future__ import annotations

import re
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
    port = reserve_port()
    argv = [*_write_config(directory, scraped_port, interval), f"--web.listen-address=127.0.0.1:{port}"]
    async with aiohttp.ClientSession() as http:
        with (directory / "prometheus.log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=log, stderr=log)  # noqa: ASYNC220 -- returns at once
        try:
            yield Prometheus(http, port)
        finally:
            process.kill()
            process.wait()


def _write_config(directory: Path, scraped_port: int, interval: str) -> list[str]:
    """Write a configuration and return the command that starts a Prometheus with it."""
    for shipped in (RULES, CONTROLLER_RULES):
        rules = re.sub(r"for: \d+[mh]", "for: 500ms", shipped.read_text())
        rules = re.sub(r"interval: \d+m", f"interval: {interval}", rules)
        (directory / shipped.name).write_text(rules)
    targets = [{"targets": [f"127.0.0.1:{scraped_port}"]}]
    config = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": ["*.rules.yml"],
        "scrape_configs": [{"job_name": "ebs-agent", "static_configs": targets}],
    }
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    return [
        "prometheus",
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/tsdb",
    ]
