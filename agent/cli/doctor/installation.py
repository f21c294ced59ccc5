"""Is the agent set up here: its policy, what that needs of AWS, its state directory, and is it running."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from msgspec import to_builtins

from agent.base.paths import Paths
from agent.cli.client import Client
from agent.cli.doctor.findings import Finding, Grade
from agent.core.errors import AgentError
from agent.core.model import FsType

if TYPE_CHECKING:
    from agent.policy import Policy


def examine_policy(paths: Paths) -> tuple[Finding, Policy | None]:
    """Tell whether the policy can be used, and return it where it can."""
    from agent.policy.reading import load_policy  # noqa: PLC0415  # the slowest import, and it may say what is wrong

    path = paths.policy
    if not path.exists():
        mend = "Write one; docs/policy.md tells how. Until then no volume is touched."
        return Finding("policy", Grade.WARNING, f"{path} does not exist", mend), None
    try:
        policy = load_policy(path, trust_owner=not paths.is_real)
    except AgentError as error:
        return Finding("policy", Grade.FAILURE, error.message, f"See each: ebs-agent check {path}."), None
    return Finding("policy", Grade.OK, f"{path}: {len(policy.volumes)} volumes"), policy


def list_types(policy: Policy | None) -> frozenset[FsType]:
    """Return the filesystem types that the policy asks for."""
    volumes = () if policy is None else policy.volumes
    return frozenset(entry.filesystem.type for entry in volumes if entry.filesystem is not None)


_GRADES = {True: Grade.OK, False: Grade.FAILURE, None: Grade.WARNING}


def examine_cloud_half(policy: Policy | None, socket: Path) -> list[Finding]:
    """Tell who this node is by which source, and which permissions the policy needs and does not have.

    As the running agent sees it, whose environment is its unit's; where none answers, as this shell does.
    """
    try:
        answer = Client(socket).examine()
    except AgentError as error:
        examined = [] if policy is None else _examine_from_here(policy)
        is_asked = any(finding.subject.startswith(("ec2:", "sagemaker:")) for finding in examined)
        return [_explain_shell(error), *examined] if is_asked else examined
    return [_show_environment(answer["environment"]), *_grade(answer["findings"])]


def _grade(examined: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Return what was examined as findings, with all that cannot be tried in one."""
    # An agent of an earlier build does not tell what it could not try.
    tried = [one for one in examined if one.get("is_tried", True)]
    untried = [one["subject"] for one in examined if not one.get("is_tried", True)]
    findings = [Finding(one["subject"], _GRADES[one["is_ok"]], one["found"], one["mend"]) for one in tried]
    if untried:
        found = f"cannot be tried without doing them: {', '.join(dict.fromkeys(untried))}"
        findings.append(Finding("permissions", Grade.NOTE, found))
    return findings


def _show_environment(environment: dict[str, str]) -> Finding:
    shown = ", ".join(f"{name}={value}" for name, value in environment.items())
    return Finding("agent's environment", Grade.OK, shown or "sets nothing about AWS or proxies")


def _explain_shell(error: AgentError) -> Finding:
    found = f"the following is as this shell sees it, and not the agent: {error.message}"
    mend = (
        "What the unit alone sets, a proxy or a profile, is seen by an agent that runs: systemctl start "
        "ebs-agent. systemctl cat ebs-agent shows its drop-ins."
    )
    return Finding("AWS", Grade.WARNING, found, mend)


def _examine_from_here(policy: Policy) -> list[Finding]:
    from agent.cloud.identity.identity_sources import look_around  # noqa: PLC0415
    from agent.cloud.permissions.doctor_checks import examine_cloud  # noqa: PLC0415  # slow imports, and only if it can be said

    examined = anyio.run(examine_cloud, policy, look_around())
    return _grade([to_builtins(one) for one in examined])


def examine_state(path: Path) -> Finding:
    """Tell whether the agent can write down what it must not forget."""
    existing = next(parent for parent in (path, *path.parents) if parent.exists())
    if os.access(existing, os.W_OK | os.X_OK):
        return Finding("durable state", Grade.OK, str(path))
    mend = f"Make {existing} writable for root; without its records the agent formats nothing."
    return Finding("durable state", Grade.FAILURE, f"{path} cannot be written", mend)


def examine_agent(socket: Path) -> Finding:
    """Tell whether an agent runs here."""
    try:
        node = Client(socket).status()
    except AgentError as error:
        return Finding("agent", Grade.WARNING, error.message, error.hint)
    return Finding("agent", Grade.OK, f"version {node['version']}, {len(node['volumes'])} volumes")


def list_node_conditions(socket: Path) -> Iterator[Finding]:
    """Tell what the running agent finds wrong with the node as a whole; nothing where none answers."""
    try:
        told = Client(socket).status().get("node_conditions", [])
    except AgentError:
        return
    for one in told:
        yield Finding(one["about"], Grade.FAILURE, f"{one['reason']}: {one['message']}", one["hint"])


def list_drift(socket: Path) -> Iterator[Finding]:
    """Tell which volumes are not as their claims say; nothing where no agent answers, which is told."""
    try:
        volumes = Client(socket).status()["volumes"]
    except AgentError:
        return
    for volume in volumes:
        if volume.get("drift"):
            found = "not as its claim says: " + "; ".join(one["text"] for one in volume["drift"])
            mend = "What only a new volume can have: docs/cloud.md, Size and class."
            yield Finding(f"volume {volume['name']}", Grade.WARNING, found, mend)
