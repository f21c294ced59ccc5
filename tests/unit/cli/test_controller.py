from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.controller.options import find_cloud_endpoint, parse_endpoint, read_care
from agent.controller.program import ControllerSettings
from agent.controller.service.parse_tags import parse_extra_tags
from agent.core.errors import InvalidValueError


@pytest.mark.parametrize("text", ["unix:///csi/csi.sock", "/csi/csi.sock"])
def test_the_socket_is_named_as_sidecars_name_it(text: str) -> None:
    """With the scheme or without."""
    assert parse_endpoint(text) == Path("/csi/csi.sock")


@pytest.mark.parametrize(
    "text", ["", "unix://csi.sock", "tcp://0.0.0.0:1", "unix:///", "csi.sock", "/csi/.."]
)
def test_another_endpoint_is_refused(text: str) -> None:
    """Nobody else than the pod is to reach the controller."""
    with pytest.raises(InvalidValueError, match="--endpoint"):
        parse_endpoint(text)


def test_tags_of_all_that_is_made() -> None:
    """As AWS's driver takes them."""
    assert parse_extra_tags("team=storage, stage=,") == (("stage", ""), ("team", "storage"))
    assert parse_extra_tags("") == ()
    for text in ("team", "a=1,a=2", "aws:x=1", "CSIVolumeName=x"):
        with pytest.raises(InvalidValueError, match="--extra-tags"):
            parse_extra_tags(text)


def test_an_emulated_cloud_is_spoken_to_where_the_environment_says() -> None:
    """The agent's own variable, then AWS's."""
    assert find_cloud_endpoint({}) is None
    assert find_cloud_endpoint({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}) == "http://127.0.0.1:1"
    both = {"EBS_AGENT_CLOUD_ENDPOINT": "http://127.0.0.1:2", "AWS_ENDPOINT_URL": "http://127.0.0.1:1"}
    assert find_cloud_endpoint(both) == "http://127.0.0.1:2"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--region", "mars"], "--region"),
        (["--region", ""], "--region"),
        (["--region", "us-east-1", "--driver", "a/b"], "--driver"),
        (["--region", "us-east-1", "--cluster-id", "a b"], "--cluster-id"),
        (["--region", "us-east-1", "--extra-tags", "x"], "--extra-tags"),
        (["--region", "us-east-1", "--release-dead-nodes"], "--release-dead-nodes"),
    ],
)
def test_a_wrong_option_is_named(options: list[str], named: str) -> None:
    """Before anything is begun."""
    done = CliRunner().invoke(app, ["csi-controller", "--endpoint", "/csi/csi.sock", *options])
    assert isinstance(done.exception, InvalidValueError)
    assert named in str(done.exception)


POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}


@pytest.mark.parametrize(
    ("kubeconfig", "environment", "is_cared_for"),
    [(None, {}, False), (None, POD, True), (Path("/k"), {}, True), (Path("/k"), POD, True)],
)
def test_the_cluster_is_cared_for_where_there_is_one(
    kubeconfig: Path | None,
    environment: dict[str, str],
    is_cared_for: bool,  # noqa: FBT001
) -> None:
    """In a pod it is the pod's own; a kubeconfig names another. Nodes are released only when that is said."""
    bare = ControllerSettings(Path("/csi/csi.sock"), "ebs.csi.aws.com", "us-east-1", cluster_id="mine")
    care = read_care(bare, kubeconfig, environment, releases_dead_nodes=False).care
    assert (care is not None) == is_cared_for
    if care is not None:
        assert (care.driver, care.region, care.cluster_id) == ("ebs.csi.aws.com", "us-east-1", "mine")
        assert (care.kubeconfig, care.releases_dead_nodes) == (kubeconfig, False)
        told = read_care(bare, kubeconfig, environment, releases_dead_nodes=True).care
        assert told is not None
        assert told.releases_dead_nodes
        assert told.holder != care.holder
