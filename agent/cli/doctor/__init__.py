"""``ebs-agent doctor``: is this node ready for the agent, and how to mend what is not. Changes nothing."""

from __future__ import annotations

from pathlib import Path

from agent.base.paths import Paths
from agent.cli.client import Client
from agent.cli.doctor.findings import Finding, Grade, show_findings
from agent.cli.doctor.installation import (
    examine_agent,
    examine_cloud_half,
    examine_policy,
    examine_state,
    list_drift,
    list_node_conditions,
    list_types,
)
from agent.cli.doctor.listening import examine_listener
from agent.cli.doctor.machine import (
    Host,
    examine_blkid,
    examine_filesystems,
    examine_identity,
    examine_io_timeout,
    examine_kernel,
    examine_namespace,
    examine_tools,
    examine_udev,
    examine_user,
)
from agent.cli.show.progress import telling
from agent.core.errors import ExitCode

__all__ = ["Finding", "Grade", "Host", "examine", "examine_node", "show_findings"]


def examine(paths: Paths, client: Client, bundle: Path | None, *, as_json: bool) -> ExitCode:
    """Examine the node and print what was found, or put it into a new archive with all else that is told."""
    with telling("examine this node", to_stderr=True):
        findings = examine_node(paths)
    if bundle is None:
        return show_findings(findings, as_json=as_json)
    from agent.cli.doctor.collect import collect, show_collected  # noqa: PLC0415 -- for bug reports alone

    with telling("collect", to_stderr=as_json) as progress:
        collected = collect(bundle, paths, client, findings, progress=progress)
    show_collected(collected, as_json=as_json)
    return ExitCode.DONE


def examine_node(paths: Paths, host: Host | None = None) -> list[Finding]:
    """Return what was found, most basic first."""
    host = host or Host()
    policy_finding, policy = examine_policy(paths)
    needed = list_types(policy)
    return [
        examine_user(host),
        examine_kernel(host),
        *examine_filesystems(host, needed),
        *examine_tools(host, needed),
        examine_blkid(host),
        examine_udev(host),
        examine_namespace(host),
        *examine_identity(host),
        examine_io_timeout(host),
        policy_finding,
        *examine_cloud_half(policy, paths.socket),
        examine_state(paths.state),
        examine_agent(paths.socket),
        examine_listener(policy, paths.socket),
        *list_node_conditions(paths.socket),
        *list_drift(paths.socket),
    ]
