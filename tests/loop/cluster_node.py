"""A node of the emulated cluster: a real agent over files, and an AWS that is emulated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.agent_process import AgentProcess, Scratch
from tests.aws.cloud import CLUSTER_ARN, REGION
from tests.aws.files import FileVolumes
from tests.aws.server import AwsServer


class ClusterNode:
    """A node of the emulated cluster with a real agent over the files attached to it."""

    def __init__(self, base: Path, aws: AwsServer, files: FileVolumes, instance_id: str, name: str) -> None:
        base.mkdir()
        self.scratch = Scratch(base).prepare()
        self.agent = AgentProcess(self.scratch)
        self.instance_id = instance_id
        files.nodes[instance_id] = self.scratch.devices
        aws.cloud.add_node(instance_id)
        config = {
            "ClusterConfig": {"ClusterArn": CLUSTER_ARN, "ClusterName": "c"},
            "InstanceGroups": [
                {
                    "Name": "compute",
                    "Instances": [
                        {"InstanceName": name, "CustomerIpAddress": "127.0.0.1", "InstanceId": instance_id}
                    ],
                }
            ],
        }
        self._config = base / "resource_config.json"
        self._config.write_text(json.dumps(config))
        self._endpoint = aws.endpoint

    def write_policy(self, *volumes: dict[str, Any]) -> None:
        self.scratch.write_policy(*volumes, classes={"fast": {"type": "gp3"}}, cloud={"enabled": True})

    def claim(self, name: str, size: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "claim": {"class": "fast", "size": size, **more},
            "filesystem": {"type": "xfs", "format": "never" if "from" in more else "if-blank"},
            "mount": {"path": str(self.scratch.data / name)},
            "grow": True,
        }

    def start(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("SAGEMAKER_RESOURCE_CONFIG_PATH", str(self._config))
        environment.setenv("EBS_AGENT_CLOUD_ENDPOINT", self._endpoint)
        environment.setenv("AWS_ACCESS_KEY_ID", "emulated")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "emulated")
        environment.setenv("AWS_REGION", REGION)
        self.agent.start()

    def order(self, *words: str) -> str:
        """Run a command of the command line against this node's agent, and return what it printed."""
        argv = [sys.executable, "-m", "agent", "--root", str(self.scratch.root), *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr + self.agent.read_log()[-3000:]
        return done.stdout

    def fail(self, *words: str) -> tuple[int, str]:
        argv = [sys.executable, "-m", "agent", "--root", str(self.scratch.root), *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=100)
        return done.returncode, done.stderr

    def wait_ready(self, name: str) -> dict[str, Any]:
        return self.agent.wait_condition(name, "Ready")

    def end(self) -> None:
        self.agent.end_anyhow()
        self.scratch.clean()
