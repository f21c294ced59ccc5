"""Pages that lead from nothing to a volume, pasted block by block, against the emulated AWS."""

from __future__ import annotations

import fcntl
import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from moto.iam.models import iam_backends

from tests.aws.cloud import ACCOUNT, CLUSTER_ARN
from tests.aws.files import FileVolumes
from tests.aws.server import AwsServer
from tests.fakes.bundle import REPOSITORY
from tests.loop.pages.desk import Desk, check_printed
from tests.loop.pages.fences import Block, read_blocks
from tests.loop.pages.metadata import ROLE_KEY, Metadata
from tests.loop.pages.node import SYSTEM_PATH, PageNode
from tests.loop.pages.shells import Shell

pytestmark = pytest.mark.timeout(600)

PAGES = ("start-ec2.md", "start-eks-lifecycle.md", "start-slurm.md")
ANYBODY = {"sts:GetCallerIdentity"}
INSTANCE = "i-00000000000000001"
"""The node of a page about HyperPod."""


def read_page(name: str) -> list[Block]:
    return read_blocks((REPOSITORY / "docs" / name).read_text("utf-8"))


def list_not_run() -> Iterator[tuple[str, Block]]:
    for page in PAGES:
        yield from ((page, block) for block in read_page(page) if block.is_command and block.not_run)


def allows(statement: dict[str, Any], action: str) -> bool:
    allowed = statement["Action"]
    return action in ([allowed] if isinstance(allowed, str) else allowed)


@contextmanager
def alone() -> Iterator[None]:
    """Have one page's node at a time: all would listen on the same port, and share a directory in /dev."""
    with (Path(tempfile.gettempdir()) / "ebs-agent-pages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_compute(group: dict[str, Any]) -> bool:
    return bool(group["SlurmConfig"]["NodeType"] == "Compute")


def make_resource_config(group: dict[str, Any], orchestrator: str) -> dict[str, Any]:
    """Return what HyperPod tells a node of this group in its resource_config.json."""
    is_eks = orchestrator == "Eks"
    name = f"hyperpod-{INSTANCE}" if is_eks else f"{group['InstanceGroupName']}-1"
    instance = {"InstanceName": name, "CustomerIpAddress": "127.0.0.1", "InstanceId": INSTANCE}
    described = {"Name": group["InstanceGroupName"], "InstanceType": group["InstanceType"]}
    cluster = {
        "ClusterArn": CLUSTER_ARN,
        "ClusterName": "training",
        "ClusterType": "Kubernetes" if is_eks else "Slurm",
    }
    return {"ClusterConfig": cluster, "InstanceGroups": [{**described, "Instances": [instance]}]}


class Reader:
    """Who pastes a page: into a shell with a clone of the project, and into one on the node."""

    def __init__(self, base: Path, aws: AwsServer, files: FileVolumes, metadata: Metadata) -> None:
        self._aws, self._files, self._metadata = aws, files, metadata
        self._desk = Desk(base, aws.endpoint)
        self.clone = self._desk.clone
        self.node = PageNode(base, aws.endpoint, metadata)
        self._there: Shell | None = None
        self.denied: set[str] = set()
        aws.may = self.may

    def paste(self, block: Block) -> None:
        """Run one block, and compare what it prints with what the page shows."""
        if block.language != "sh node":
            self._desk.paste(block)
            return
        if self._there is None:
            self._there = self.node.start()
            self._boot(self._there)
        check_printed(block, self._there.paste(block.text))

    def _boot(self, shell: Shell) -> None:
        """Have the machine that the page made do what it was told to do when it is made."""
        instances = self._aws.cloud.ec2.all_running_instances()
        if instances:
            self._boot_instance(shell, instances[0])
        else:
            self._boot_node(shell)

    def _boot_instance(self, shell: Shell, instance: Any) -> None:
        """Run an instance's user data, as cloud-init does."""
        self._files.nodes[instance.id] = self.node.devices
        self._metadata.instance_id = instance.id
        user_data = self.clone.parent / "user-data"
        user_data.write_text(instance.user_data.decode())
        user_data.chmod(0o755)
        shell.paste(str(user_data))

    def _boot_node(self, shell: Shell) -> None:
        """Run a HyperPod node's lifecycle script from S3, beside the file that tells it who it is."""
        asked = json.loads((self.clone / "cluster.json").read_text())
        (orchestrator,) = asked["Orchestrator"]
        (group,) = (one for one in asked["InstanceGroups"] if "SlurmConfig" not in one or is_compute(one))
        script = group["LifeCycleConfig"]
        self._aws.cloud.add_node(INSTANCE, group["InstanceGroupName"])
        self._aws.cloud.hyperpod.orchestrator = orchestrator
        self._files.nodes[INSTANCE] = self.node.devices
        self._metadata.instance_id = INSTANCE
        config = make_resource_config(group, orchestrator)
        if orchestrator == "Slurm":
            self._bring_volume()
        shell.paste(
            "mkdir -p /opt/ml/config\n"
            f"cat >/opt/ml/config/resource_config.json <<'END'\n{json.dumps(config)}\nEND\n"
            f"aws s3 cp --recursive --only-show-errors {script['SourceS3Uri']} /run/lifecycle\n"
            f"bash /run/lifecycle/{script.get('OnCreate') or script['OnInitComplete']}"
        )

    def _bring_volume(self) -> None:
        """Have a volume with data come by other means than AWS's calls."""
        image = self.clone.parent / "volume"
        with image.open("w") as file:
            file.truncate(1 << 40)
        subprocess.run(["mkfs.xfs", "-q", "-K", str(image)], check=True, env={"PATH": SYSTEM_PATH})
        image.rename(self.node.devices / "vol-0123456789abcdef0.img")

    def may(self, key: str, action: str) -> bool:
        """Tell whether a call is allowed: the node's are where a role of the page's has it in a policy."""
        statements = (
            statement
            for role in iam_backends[ACCOUNT]["aws"].roles.values()
            for policy in role.policies.values()
            for statement in json.loads(policy)["Statement"]
        )
        is_allowed = key != ROLE_KEY or action in ANYBODY or any(allows(one, action) for one in statements)
        if not is_allowed:
            self.denied.add(action)
        return is_allowed

    def end(self) -> None:
        self._desk.end()
        if self._there is not None:
            self._there.end()
        self.node.clean()


@pytest.fixture
def reader(
    short_path: Path, aws: AwsServer, files: FileVolumes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reader]:
    monkeypatch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
    iam_backends[ACCOUNT]["aws"].reset()
    with alone(), Metadata() as metadata:
        reader = Reader(short_path, aws, files, metadata)
        yield reader
        reader.end()


@pytest.mark.parametrize(
    "page", [PAGES[0], *(pytest.param(page, marks=pytest.mark.thorough) for page in PAGES[1:])]
)
def test_page_does_what_it_says(page: str, reader: Reader) -> None:
    """Each block can be pasted after those before it, and prints what the page shows, to the last line."""
    for block in read_page(page):
        if block.is_command and block.not_run is None:
            reader.paste(block)
    assert reader.denied == set()


@pytest.mark.parametrize(("page", "block"), list(list_not_run()))
def test_block_is_not_run(page: str, block: Block) -> None:
    """What cannot be run here says why, and is counted among what was skipped."""
    pytest.skip(f"a block of docs/{page} is not run: {block.not_run}")
