"""``ebs-agent withdraw``: kubelet lets go of the agent's driver, before the agent leaves the node for good.

Needs no running agent, and no policy that can be read: what it looks at is the notes and the sockets.
"""

from __future__ import annotations

from agent.base.paths import Paths
from agent.cli.client import Client
from agent.core.errors import AgentError, ExitCode, RefusedError
from agent.csi.noted_claims import list_claims
from agent.csi.withdraw import remove_sockets
from agent.policy import PolicyError
from agent.policy.reading import load_policy
from agent.policy.settings import CsiSettings
from agent.policy.values.csi_fields import POLICY_DRIVER


def withdraw_driver(
    paths: Paths, client: Client, *, is_check: bool = False, is_forced: bool = False
) -> tuple[list[str], list[str]]:
    """Remove the sockets; return which, and a sentence for each that stays.

    RefusedError while pods have volumes, unless forced, and while the agent runs. ``is_check``: no more than
    the former, and nothing is removed.
    """
    claims = [] if is_forced else list(list_claims(paths.state))
    if claims:
        raise RefusedError(
            f"Pods on this node have volumes by the agent: {'; '.join(claims)}.",
            hint="Drain the node first (kubectl drain). With --force they stay mounted, and nobody takes them"
            " back before the node is rebooted.",
            retryable=False,
            exit_code=ExitCode.REFUSED,
        )
    if is_check:
        return [], []
    _refuse_running(client)
    settings = _read_settings(paths)
    removed, left = remove_sockets(settings.root, (settings.driver, CsiSettings().driver, POLICY_DRIVER))
    return [str(path) for path in removed], left


def _refuse_running(client: Client) -> None:
    try:
        client.status()
    except AgentError as error:
        if error.exit_code is ExitCode.NO_ANSWER:
            return
        raise
    raise RefusedError(
        "The agent runs, and would put its sockets up again.",
        hint="systemctl disable --now ebs-agent first; or, to keep it for the policy's volumes, write"
        " agent.csi.enabled: false into the policy and restart it, which withdraws as well.",
        retryable=False,
        exit_code=ExitCode.REFUSED,
    )


def _read_settings(paths: Paths) -> CsiSettings:
    """Return what the policy says of the driver, or what holds where it says nothing or is not to be read."""
    try:
        policy = load_policy(paths.policy, trust_owner=True)  # it names sockets that nobody answers at
    except PolicyError:
        return CsiSettings()
    return policy.agent.csi or CsiSettings()
