"""``ebs-agent csi migrate``: what it says before, what it does, and how it ends."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.cli.csi import migration
from agent.cli.csi.migration import Wishes, migrate_in
from agent.core.errors import ExitCode, InvalidValueError
from agent.core.replace import replace
from tests.unit.controller.migration.stand_in import (
    AWS,
    OURS,
    VOLUME_ID,
    StandInEc2,
    make_cluster,
    make_pod,
)


def wish(*names: str, is_meant: bool = True, as_json: bool = False, takes_snapshot: bool = True) -> Wishes:
    """Return what the options say; without names all claims are meant."""
    return Wishes(
        names=names or None,
        namespace=None,
        origin=AWS,
        target=OURS,
        snapshot_class=None,
        takes_snapshot=takes_snapshot,
        takes_ec2_snapshot=False,
        region="us-west-2",
        timeout_s=0.0,
        is_meant=is_meant,
        as_json=as_json,
    )


def open_none(region: str) -> AbstractAsyncContextManager[StandInEc2]:
    """Fail, since EC2 is not to be asked."""
    raise AssertionError(region)


class Shown:
    """Notes what is told of work under way."""

    def __init__(self) -> None:
        self.far: list[int] = []
        self.said: list[str] = []

    def tell(self, text: str | None, percent: float | None = None) -> None:
        """Take it down."""
        if text is not None:
            self.said.append(text)
        if percent is not None:
            self.far.append(round(percent))


@pytest.mark.anyio
async def test_nothing_is_done_unless_it_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    """The plan is numbered, and names volume, objects and drivers."""
    cluster = make_cluster()
    assert await migrate_in(cluster, wish("data", is_meant=False), "training", open_none) == ExitCode.DONE
    assert {verb for verb, _ in cluster.calls} == {"get", "list"}
    said = capsys.readouterr().out
    assert f"training/data ({VOLUME_ID}, 100Gi): {AWS} -> {OURS}" in said
    assert "  4. delete claim training/data\n" in said
    assert "Nothing was changed. With --yes 1 of 1 are moved" in said


@pytest.mark.anyio
async def test_all_but_those_that_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """What a pod uses is left and named, the others are moved, and the exit code is that of a refusal."""
    cluster = make_cluster(names=("first", "second"))
    cluster.add(make_pod("first"))
    assert await migrate_in(cluster, wish(), None, open_none) == ExitCode.REFUSED
    said = capsys.readouterr().out
    assert "Claim training/first is in use by pod trainer." in said
    assert "Moved: 1 of 1; refused: 1." in said
    volumes = cluster.list_kind("PersistentVolume")
    drivers = {each["metadata"]["name"]: each["spec"]["csi"]["driver"] for each in volumes}
    assert drivers.pop("pv-first") == AWS
    assert [*drivers.values()] == [OURS]


@pytest.mark.anyio
async def test_all_but_the_one_whose_record_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """What was done of that one is not known; it is left as it is and named, and the others are moved."""
    cluster = make_cluster(names=("first", "second"))
    spoiled = cluster.read("PersistentVolume", "pv-first")
    spoiled["metadata"].setdefault("annotations", {})["ebs-agent/migration"] = "{"
    before = copy.deepcopy(cluster.read("PersistentVolumeClaim", "first", "training"))
    assert await migrate_in(cluster, wish(), None, open_none) != ExitCode.DONE
    said = capsys.readouterr().out
    assert "The record of a migration on PersistentVolume pv-first cannot be read" in said
    assert "Moved: 1 of 1; refused: 1." in said
    assert cluster.read("PersistentVolumeClaim", "first", "training") == before
    assert "pv-first" in {each["metadata"]["name"] for each in cluster.list_kind("PersistentVolume")}


@pytest.mark.anyio
async def test_answer_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """One object on standard output; progress goes to standard error."""
    cluster = make_cluster(names=("first", "second"))
    cluster.add(make_pod("first"))
    assert await migrate_in(cluster, wish(as_json=True), None, open_none) == ExitCode.REFUSED
    said = capsys.readouterr()
    answer = json.loads(said.out)
    first, second = answer["claims"]
    assert (first["claim"], first["moved"], first["steps"]) == ("first", False, [])
    assert first["error"]["message"] == "Claim training/first is in use by pod trainer."
    assert (second["claim"], second["moved"], second["error"]) == ("second", True, None)
    assert {"group": "", "resource": "pods", "verbs": ["list"]} in answer["rights"]
    assert "training/second: delete claim training/second" in said.err


@pytest.mark.anyio
async def test_no_snapshot_by_wish(capsys: pytest.CaptureFixture[str]) -> None:
    """Where none is wanted nobody is asked for one."""
    cluster = make_cluster()
    cluster.has_snapshot_types = False
    assert await migrate_in(cluster, wish(takes_snapshot=False), None, open_none) == ExitCode.DONE
    assert "napshot" not in capsys.readouterr().out


@pytest.mark.parametrize("has_types", [False, True])
@pytest.mark.anyio
async def test_ec2_takes_the_snapshots(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, has_types: bool
) -> None:
    """In a cluster without VolumeSnapshots, or by wish; only a dry run needs no right in AWS.

    It is told how far all is: by claims that are moved, and by the snapshot of the one that is waited for.
    """
    cluster, ec2 = make_cluster(names=("first", "second")), StandInEc2()
    cluster.has_snapshot_types = has_types
    opened: list[str] = []

    @asynccontextmanager
    async def open_it(region: str) -> AsyncIterator[StandInEc2]:
        opened.append(region)
        yield ec2

    meant = replace(wish(), takes_ec2_snapshot=has_types)
    assert await migrate_in(cluster, replace(meant, is_meant=False), None, open_none) == ExitCode.DONE
    assert f"  1. take EC2 snapshot before-migration-uid-of-first of {VOLUME_ID}" in capsys.readouterr().out
    with pytest.raises(InvalidValueError, match="--region"):
        await migrate_in(cluster, replace(meant, is_meant=False, region=None), None, open_none)
    capsys.readouterr()
    shown = Shown()
    monkeypatch.setattr(migration, "telling", lambda *_, **__: nullcontext(shown))
    assert await migrate_in(cluster, replace(meant, as_json=True), None, open_it) == ExitCode.DONE
    assert shown.far == [0, 0, 18, 50, 68, 100]
    assert "training/second: waits until snap-00000000000000001 is complete (so far: 40 %)" in shown.said
    assert json.loads(capsys.readouterr().out)["aws_actions"]
    assert opened == ["us-west-2"]
    assert ec2.takes == ["before-migration-uid-of-first", "before-migration-uid-of-second"]
    assert cluster.list_kind("VolumeSnapshot") == []


@pytest.mark.anyio
async def test_no_claims(capsys: pytest.CaptureFixture[str]) -> None:
    """That there are none is said, and is no failure."""
    assert await migrate_in(make_cluster(names=()), wish(), None, open_none) == ExitCode.DONE
    assert capsys.readouterr().out == "There are no such claims.\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "not said"),
        (["data", "--all"], "said twice"),
        (["data", "--to", AWS], "same driver"),
        (["data", "--no-snapshot", "--snapshot-class", "a"], "exclude each other"),
        (["data", "--ec2-snapshot", "--snapshot-class", "a"], "exclude each other"),
        (["data", "--kubeconfig", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_options(options: list[str], words: str) -> None:
    """They are named before anything is asked for."""
    done = CliRunner().invoke(app, ["csi", "migrate", *options])
    assert isinstance(done.exception, InvalidValueError)
    assert words in str(done.exception)


def test_needs_are_said_first(tmp_path: Path) -> None:
    """Which rights it takes is on standard output before a cluster is looked for."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    done = CliRunner().invoke(app, ["csi", "migrate", "--all", "--kubeconfig", str(kubeconfig)])
    assert isinstance(done.exception, InvalidValueError)
    assert done.stdout.startswith("Needs in Kubernetes (docs/migrate-rbac.yaml):\n")
    assert "  persistentvolumes: get, list, create, patch, delete\n" in done.stdout
    assert "  volumesnapshots.snapshot.storage.k8s.io: get, create\n" in done.stdout
    assert "  ec2:CreateSnapshot, ec2:CreateTags, ec2:DescribeSnapshots\n" in done.stdout


@pytest.mark.anyio
async def test_snapshots_are_begun_together() -> None:
    """Before the first claim is moved all have theirs begun, since each takes its time."""
    cluster = make_cluster(names=("first", "second"))
    assert await migrate_in(cluster, wish(), None, open_none) == ExitCode.DONE
    changes = [kind for verb, kind in cluster.calls if verb not in {"get", "list", "try"}]
    assert changes[:3] == ["VolumeSnapshot", "VolumeSnapshot", "PersistentVolume"]


@pytest.mark.anyio
async def test_plan_of_many_claims_lists_once() -> None:
    """What is listed is listed once for all claims, and each claim read once, with its snapshot."""
    cluster = make_cluster(names=tuple(f"c{number}" for number in range(20)))
    assert await migrate_in(cluster, wish(is_meant=False), None, open_none) == ExitCode.DONE
    assert len([verb for verb, _ in cluster.calls if verb == "list"]) == 6
    assert len([verb for verb, kind in cluster.calls if verb == "get" and kind != "CSIDriver"]) == 40
