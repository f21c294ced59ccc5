"""``ebs-agent csi migrate`` at a real API server, as a user with the documented rights and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from tests.aws.cloud import REGION
from tests.aws.world import CREDENTIALS
from tests.kubernetes.api import Api
from tests.kubernetes.control_plane import ControlPlane

RBAC = Path(__file__).parents[2] / "docs/migrate-rbac.yaml"
USER = "migrator"
TIMEOUT_S = 240.0


class Migrator:
    """The command, for one cluster; ``aws_endpoint``: of EC2, where that is asked for snapshots."""

    def __init__(self, plane: ControlPlane, aws_endpoint: str = "") -> None:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        aws = {**CREDENTIALS, "AWS_REGION": REGION, "EBS_AGENT_CLOUD_ENDPOINT": aws_endpoint}
        self._environment = {**plain, **(aws if aws_endpoint else {})}
        self._kubeconfig = plane.directory / f"{USER}.kubeconfig"
        self._kubeconfig.write_text(plane.write_kubeconfig(USER, "127.0.0.1"))
        grant_rights(plane.api)

    def migrate(self, *arguments: str) -> str:
        """Run the command to its end, which is to be good; return what it said."""
        done = self._run(*arguments)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}"
        return done.stdout

    def refuse(self, *arguments: str) -> str:
        """Run the command, which is to refuse; return what it said."""
        done = self._run(*arguments)
        assert done.returncode == 5, f"{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def migrate_killed(self, claim: str, *arguments: str) -> int:
        """Kill the command at each thing that it says it does, and go on with it anew, to the good end.

        Return how often it was killed.
        """
        seen: set[str] = set()
        while True:
            with self._running(claim, *arguments) as process:
                assert process.stdout is not None
                new = (line for line in process.stdout if line.startswith(f"default/{claim}: "))
                line = next((line for line in new if line not in seen), None)
                if line is not None:
                    process.kill()
            if line is None:
                assert process.returncode == 0, sorted(seen)
                return len(seen)
            seen.add(line)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._list_argv(*arguments),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=self._environment,
        )

    @contextmanager
    def _running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        argv = self._list_argv(*arguments)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=self._environment) as process:
            try:
                yield process
                process.wait(TIMEOUT_S)
            finally:
                process.kill()

    def _list_argv(self, *arguments: str) -> list[str]:
        said = ["--kubeconfig", str(self._kubeconfig), "--timeout", "120", *arguments]
        return [sys.executable, "-u", "-m", "agent", "csi", "migrate", *said]


def grant_rights(api: Api) -> None:
    """Grant what the documentation says to the user."""
    for manifest in yaml.safe_load_all(RBAC.read_text(encoding="utf-8")):
        for subject in manifest.get("subjects", ()):
            subject["name"] = USER
        api.ensure(manifest)
