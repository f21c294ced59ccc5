"""What the chart makes of its values, by the real helm."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.controller.care.node_changes import name_start_up_taint
from agent.controller.options import read_settings
from agent.policy.reading import read_policy
from tests.chart.helm import CHART, FULL, LEAST, RefusedError, lint, render
from tests.kubernetes.sidecars import ARGUMENTS

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tests/kubernetes/tools"


def test_helm_finds_no_fault() -> None:
    """With the least values and with every switch."""
    assert not lint()


def test_what_must_be_said() -> None:
    """Without it nothing is rendered, and a sentence says what to do."""
    with pytest.raises(RefusedError, match=r"image\.repository is not set: say where"):
        render()
    with pytest.raises(RefusedError, match="region is not set: say where"):
        render(sets=['image={"repository":"r"}'])


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ('region="nowhere"', "/region"),
        ("replica=3", "additional properties 'replica' not allowed"),
        ("replicas=0", "/replicas"),
        ('driver="Not A Name"', "/driver"),
        ('snapshots="maybe"', "/snapshots"),
        ('aws={"roleArn":"ebs-agent"}', "/aws/roleArn"),
        ('storageClasses=[{"name":"ebs","parameter":{}}]', "/storageClasses/0"),
        ('storageClasses=[{"name":"ebs","parameters":{"encrypted":true}}]', "/encrypted"),
        ('sidecars={"attacher":{"extraArgs":["v=4"]}}', "/extraArgs/0"),
        ('extraTags={"a,b":"c"}', 'extraTags cannot have "a,b"'),
        ('metrics={"enabled":false}', "monitoring.serviceMonitor needs metrics.enabled"),
        ("snapshots=false", "volumeSnapshotClasses need snapshots"),
        ('node.image.repository=""', "node.image.repository is not set"),
        ('node={"settings":{"PATH":"/bin"}}', "/node/settings"),
        ('node={"maxUnavailable":0}', "/node/maxUnavailable"),
    ],
)
def test_refused(said: str, answer: str) -> None:
    """A value that cannot be meant is refused by its name."""
    with pytest.raises(RefusedError, match=re.escape(answer)):
        render(FULL, sets=[said])


def test_controller_takes_its_arguments() -> None:
    """What the chart says to the controller is what the values say, in options that it knows."""
    arguments = dict(
        each.removeprefix("--").partition("=")[::2]
        for each in get_containers(render(FULL))["controller"]["args"]
    )
    assert "release-dead-nodes" in arguments
    settings = read_settings(
        endpoint=arguments["endpoint"],
        driver=arguments["driver"],
        region=arguments["region"],
        cluster_id=arguments["cluster-id"],
        extra_tags=arguments["extra-tags"],
        metrics_port=int(arguments["metrics-port"]),
        environment={},
    )
    assert settings.driver == "ebs.csi.aws.com"
    assert settings.cluster_id == "training"
    assert dict(settings.extra_tags) == {"team": "research", "cost": "1"}


@pytest.mark.parametrize("values", [LEAST, FULL])
@pytest.mark.parametrize(
    "said", [None, [], [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 1000000}]]
)
def test_pods_run_where_nodes_wait_for_the_driver(values: Path, said: list[dict[str, Any]] | None) -> None:
    """Or nobody would take the taint off, nor bring the driver: whatever else is said to be tolerated."""
    places = {"Deployment": "tolerations", "DaemonSet": "node.tolerations"}
    sets = [] if said is None else [f"{place}={json.dumps(said)}" for place in places.values()]
    objects = render(values, sets=sets)
    defaults = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    usual = {"Deployment": defaults["tolerations"], "DaemonSet": defaults["node"]["tolerations"]}
    driver = next(made for made in find(objects, "CSIDriver"))["metadata"]["name"]
    ours = {"key": name_start_up_taint(driver), "operator": "Exists"}
    pods = [made for kind in places for made in find(objects, kind)]
    assert len(pods) == (2 if values is FULL else 1)
    for made in pods:
        others = usual[made["kind"]] if said is None else said
        assert made["spec"]["template"]["spec"]["tolerations"] == [ours, *others]


NUMBERS = {
    "111122223333": "111122223333",
    "1000000": "1000000",
    "0": "0",
    "-5": "-5",
    "1e3": "1000",
    "9007199254740991": "9007199254740991",
    '"1.10"': "1.10",
    '"012345678901"': "012345678901",
}
"""As they are written, and as the tag has them."""
NODE_SETTING = "node: {settings: {EBS_AGENT_LOCK_S: %s}}"
INEXACT = ("1.5", "9007199254740993", "-9007199254740993", "1e300", "true")


@pytest.mark.parametrize("is_file", [True, False], ids=["--values", "--set-json"])
def test_numbers_stay_what_they_are(tmp_path: Path, *, is_file: bool) -> None:
    """As tags, and as settings of the nodes."""
    for number, text in NUMBERS.items():
        objects = render_said(tmp_path, number, is_file=is_file)
        arguments = get_containers(objects)["controller"]["args"]
        assert f"--extra-tags=number={text}" in arguments
        (made,) = find(objects, "DaemonSet")
        (installs,) = made["spec"]["template"]["spec"]["initContainers"]
        assert {"name": "EBS_AGENT_LOCK_S", "value": text} in installs["env"]


@pytest.mark.parametrize("is_file", [True, False], ids=["--values", "--set-json"])
@pytest.mark.parametrize("place", ["extraTags.number", "node.settings.EBS_AGENT_LOCK_S"])
@pytest.mark.parametrize("number", INEXACT)
def test_what_may_not_be_what_was_written_is_refused(
    tmp_path: Path, number: str, place: str, *, is_file: bool
) -> None:
    """A helm that has rounded it cannot tell; quotes say that it is text."""
    with pytest.raises(RefusedError, match=f"{place} .*in quotes|/node/settings"):
        render_said(tmp_path, number, is_file=is_file, places=(place,))


def render_said(
    directory: Path,
    number: str,
    *,
    is_file: bool,
    places: Sequence[str] = ("extraTags.number", "node.settings.EBS_AGENT_LOCK_S"),
) -> list[dict[str, Any]]:
    """Render with a number as it is written, in a file or as an option."""
    node = ("node.enabled=true", 'node.image.repository="r"')
    if not is_file:
        return render(LEAST, sets=[*node, *(f"{place}={number}" for place in places)])
    path = directory / "said.yaml"
    nested = {"extraTags.number": "extraTags: {number: %s}", "node.settings.EBS_AGENT_LOCK_S": NODE_SETTING}
    path.write_text("\n".join(nested[place] % number for place in places), "utf-8")
    return render(LEAST, path, sets=node)


@pytest.mark.parametrize("values", [LEAST, FULL])
def test_containers_may_little(values: Path) -> None:
    """No container has root, a file of its image to write to or a capability; the probe has no token."""
    containers = get_containers(render(values))
    for name, container in containers.items():
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] is security["runAsNonRoot"] is True, name
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert ("kubernetes" in mounts) is (name != "liveness-probe"), name
    for made in render(values):
        if made["kind"] == "ServiceAccount":
            assert made["automountServiceAccountToken"] is False


def test_sidecars_ask_aws_nothing() -> None:
    """The role's token is for the controller alone, however many sidecars there are."""
    (deployment,) = find(render(FULL), "Deployment")
    skipped = deployment["spec"]["template"]["metadata"]["annotations"]["eks.amazonaws.com/skip-containers"]
    assert set(skipped.split(",")) == set(get_containers([deployment])) - {"controller"}


def test_volumes_are_made_where_their_pods_are_to_run() -> None:
    """The provisioner asks for the chosen node's zone alone, so that another is the scheduler's choice."""
    for arguments in (get_containers(render(LEAST))["csi-provisioner"]["args"], ARGUMENTS["csi-provisioner"]):
        assert "--strict-topology" in arguments


def test_controller_may_what_is_documented() -> None:
    """Its roles are those of docs/controller-rbac.yaml; nothing has all rights of anything."""
    documented = {
        made["kind"]: made["rules"]
        for made in yaml.safe_load_all((ROOT / "docs/controller-rbac.yaml").read_text("utf-8"))
        if "rules" in made
    }
    objects = render(FULL)
    roles = find(objects, "ClusterRole") + find(objects, "Role")
    assert {
        made["kind"]: made["rules"] for made in roles if made["metadata"]["name"].endswith("-care")
    } == documented
    words = {word for made in roles for rule in made["rules"] for words in rule.values() for word in words}
    assert "*" not in words
    assert "secrets" not in words
    bindings = find(objects, "ClusterRoleBinding") + find(objects, "RoleBinding")
    assert {made["roleRef"]["name"] for made in bindings} == {made["metadata"]["name"] for made in roles}


def test_snapshots_where_the_cluster_has_them() -> None:
    """By itself the snapshotter is there where its kinds are."""
    assert "csi-snapshotter" not in get_containers(render(LEAST))
    known = ["--api-versions=snapshot.storage.k8s.io/v1"]
    assert "csi-snapshotter" in get_containers(render(LEAST, options=known))
    assert "csi-snapshotter" not in get_containers(render(LEAST, sets=["snapshots=false"], options=known))


def test_older_kubernetes() -> None:
    """Before 1.34 the VolumeAttributesClass has its version of then; before 1.31 the chart is refused."""
    (made,) = find(render(FULL, options=["--kube-version=1.33.1"]), "VolumeAttributesClass")
    assert made["apiVersion"] == "storage.k8s.io/v1beta1"
    with pytest.raises(RefusedError, match="incompatible"):
        render(FULL, options=["--kube-version=1.30.0"])


def test_switched_off() -> None:
    """What is switched off is not there."""
    off = ['networkPolicy={"enabled":false}', 'csiDriver={"create":false}', "replicas=1"]
    objects = render(LEAST, sets=[*off, 'metrics={"enabled":false}'])
    kinds = {made["kind"] for made in objects}
    assert not kinds & {"NetworkPolicy", "CSIDriver", "PodDisruptionBudget", "Service", "StorageClass"}
    assert not any("metrics" in each for each in get_containers(objects)["controller"]["args"])


def test_rules_and_dashboard_are_those_of_monitoring() -> None:
    """They come unchanged, though they have braces as templates have."""
    objects = render(FULL)
    rules = find(objects, "PrometheusRule")
    assert [made["spec"] for made in rules] == [
        yaml.safe_load((ROOT / f"monitoring/prometheus/{name}.rules.yml").read_text("utf-8"))
        for name in ("ebs-agent", "ebs-controller")
    ]
    (dashboard,) = (made for made in find(objects, "ConfigMap") if "ebs-agent.json" in made["data"])
    for name in ("ebs-agent.json", "ebs-agent-fleet.json"):
        shown = (ROOT / "monitoring/grafana" / name).read_text("utf-8")
        assert dashboard["data"][name].strip() == shown.strip()


def test_runbooks_are_where_the_values_say() -> None:
    """Every alert leads there, and nothing else of the rules changes."""
    place = "https://docs.example/ebs-agent/"
    plain, placed = render(FULL), render(FULL, sets=[f'monitoring.runbooks="{place}"'])
    alerts = 0
    for made, changed in zip(find(plain, "PrometheusRule"), find(placed, "PrometheusRule"), strict=True):
        for group in made["spec"]["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    rule["annotations"]["runbook_url"] = place + rule["annotations"]["runbook_url"]
                    alerts += 1
        assert changed["spec"] == made["spec"]
    assert alerts > 10


def test_nodes_get_the_agent_when_asked() -> None:
    """By a pod on each: what installs there may do anything, and what then waits nothing."""
    assert not find(render(LEAST), "DaemonSet")
    objects = render(FULL)
    (made,) = find(objects, "DaemonSet")
    assert made["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": "10%"}
    spec = made["spec"]["template"]["spec"]
    (installs,), (waits,) = spec["initContainers"], spec["containers"]
    assert (installs["args"], waits["args"]) == (["install"], ["wait"])
    assert installs["image"] == waits["image"] == "registry.example/ebs-agent-node:0.1.0"
    assert installs["env"] == [{"name": "EBS_AGENT_HOLD", "value": "slurmd"}]
    assert installs["securityContext"]["privileged"] is spec["hostPID"] is True
    assert waits["securityContext"]["runAsNonRoot"] is True
    assert waits["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    (policy,) = (each for each in find(objects, "ConfigMap") if "policy.yaml" in each["data"])
    assert read_policy(policy["data"]["policy.yaml"].encode())[1] == []
    assert spec["volumes"] == [{"name": "policy", "configMap": {"name": policy["metadata"]["name"]}}]


def test_new_policy_makes_pods_anew() -> None:
    """Or nodes would keep the one before."""
    marks = set()
    for policy in ("version: 1", "version: 1 # changed"):
        (made,) = find(render(FULL, sets=[f'node.policy="{policy}"']), "DaemonSet")
        marks.add(made["spec"]["template"]["metadata"]["annotations"]["ebs-agent/policy"])
    assert len(marks) == 2


def test_nodes_lose_the_agent_only_when_told() -> None:
    """Removing the chart runs nothing on nodes; what does is a value."""
    objects = render(FULL, sets=["node.remove=true"])
    spec = find(objects, "DaemonSet")[0]["spec"]["template"]["spec"]
    assert [each["args"] for each in spec["initContainers"]] == [["remove"]]
    assert "volumes" not in spec
    assert not any("lifecycle" in each for each in (*spec["initContainers"], *spec["containers"]))
    assert not any("helm.sh/hook" in made["metadata"].get("annotations", {}) for made in objects)


def test_drivers_stay_when_the_chart_goes() -> None:
    """Without its CSIDriver a volume that is still there would be treated as another."""
    drivers = find(render(FULL), "CSIDriver")
    assert {made["metadata"]["name"] for made in drivers} == {
        "ebs.csi.aws.com",
        "policy.ebs.csi.hyperpod-agent",
    }
    assert {made["metadata"]["annotations"]["helm.sh/resource-policy"] for made in drivers} == {"keep"}


def test_sidecars_are_those_that_are_tried() -> None:
    """The versions of the chart are those that the tests with Kubernetes build."""
    sidecars = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))["sidecars"]
    for name in ("provisioner", "attacher", "resizer", "snapshotter"):
        pins = (TOOLS / f"csi-{name}/go.mod").read_text("utf-8")
        found = re.search(rf"github\.com/kubernetes-csi/external-{name}/v\d+ (v\S+)", pins)
        assert found is not None
        assert sidecars[name]["tag"] == found[1], name


def find(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [made for made in objects if made["kind"] == kind]


def get_containers(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    (deployment,) = find(objects, "Deployment")
    return {each["name"]: each for each in deployment["spec"]["template"]["spec"]["containers"]}
