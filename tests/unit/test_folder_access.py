"""Who the pages let read the folder in S3 may do all that the script does which fetches it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.loop.pages.fences import read_blocks

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy/ec2/install-from-s3.sh"
BUCKET, FOLDER = "ebs-agent-example", "ebs-agent"
NEEDED = {
    ("s3:ListBucket", f"arn:aws:s3:::{BUCKET}", f"{FOLDER}/"),
    ("s3:GetObject", f"arn:aws:s3:::{BUCKET}/{FOLDER}/on_create.sh", None),
}
"""Of ``aws s3 sync s3://BUCKET/FOLDER``: what is asked, of what, and below which prefix."""

Statement = Mapping[str, Any]


def list_of(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def may(statements: Sequence[Statement], action: str, resource: str, prefix: str | None) -> bool:
    """Tell whether one of the statements, all of which allow, allows a call."""
    return any(
        any(fnmatchcase(action, one) for one in list_of(statement["Action"]))
        and any(fnmatchcase(resource, one) for one in list_of(statement["Resource"]))
        and all(
            operator == "StringLike" and fnmatchcase(prefix or "", said["s3:prefix"])
            for operator, said in statement.get("Condition", {}).items()
        )
        for statement in statements
    )


def read_queue() -> dict[str, Any]:
    """Return the queue that the page shows."""
    page = read_blocks((ROOT / "docs/start-ec2.md").read_text())
    (block,) = (one for one in page if one.language == "yaml" and "SlurmQueues" in one.text)
    (queue,) = yaml.safe_load(block.text)["Scheduling"]["SlurmQueues"]
    assert isinstance(queue, dict)
    return queue


def grant(accesses: Sequence[Mapping[str, str]]) -> list[Statement]:
    """Return what ParallelCluster allows a queue's nodes for its ``S3Access`` (``S3Access.resource_regex``).

    With ``KeyName`` the objects of that name alone, else the bucket and all that is in it.
    """
    resources = [
        f"arn:aws:s3:::{one['BucketName']}{below}"
        for one in accesses
        for below in ([f"/{one['KeyName']}"] if "KeyName" in one else ["", "/*"])
    ]
    return [{"Effect": "Allow", "Action": ["s3:Get*", "s3:List*"], "Resource": resources}]


def test_script_asks_for_no_more_than_this() -> None:
    """A call that is added to it has to be added here."""
    code = re.sub(r"^ *#.*", "", SCRIPT.read_text(), flags=re.MULTILINE)
    assert re.findall(r"\baws (\w+ \w+)", code) == ["s3 sync"]


def test_queue_of_parallelcluster_may_fetch_the_folder() -> None:
    """The script and its argument, and what the queue may read, are of one folder."""
    queue = read_queue()
    action = queue["CustomActions"]["OnNodeConfigured"]
    assert action["Args"] == [f"s3://{BUCKET}/{FOLDER}"]
    assert action["Script"] == f"s3://{BUCKET}/{FOLDER}/{SCRIPT.name}"
    statements = grant(queue["Iam"]["S3Access"])
    assert [call for call in sorted(NEEDED, key=str) if not may(statements, *call)] == []


def test_role_of_the_pages_may_fetch_the_folder() -> None:
    """Of instances and of HyperPod's nodes, and neither more of the bucket nor to write."""
    text = (ROOT / "deploy/iam/read-folder.json").read_text().replace("BUCKET", BUCKET)
    statements = json.loads(text)["Statement"]
    assert [call for call in sorted(NEEDED, key=str) if not may(statements, *call)] == []
    assert not may(statements, "s3:ListBucket", f"arn:aws:s3:::{BUCKET}", "")
    assert not may(statements, "s3:GetObject", f"arn:aws:s3:::{BUCKET}/other", None)
    assert not may(statements, "s3:PutObject", f"arn:aws:s3:::{BUCKET}/{FOLDER}/on_create.sh", None)


@pytest.mark.parametrize("key", ["ebs-agent/*", "*"])
def test_queue_that_may_read_objects_alone_may_not_list_them(key: str) -> None:
    """Whatever the key: the bucket is none of its objects, as AWS has it."""
    statements = grant([{"BucketName": BUCKET, "KeyName": key}])
    assert {call[0] for call in NEEDED if not may(statements, *call)} == {"s3:ListBucket"}
