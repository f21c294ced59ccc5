from __future__ import annotations

from pathlib import Path

from agent.base.paths import Paths


def test_a_nodes_paths_are_those_of_the_interface() -> None:
    """Without a root, every path is where users and other tools look for it."""
    paths = Paths.choose(environment={})
    assert paths.is_real
    assert paths.policy == Path("/etc/ebs-agent/policy.yaml")
    assert paths.hooks == Path("/etc/ebs-agent/hooks.d")
    assert paths.state == Path("/var/lib/ebs-agent")
    assert paths.socket == Path("/run/ebs-agent/agent.sock")
    assert paths.dev_ebs == Path("/dev/ebs")


def test_every_path_moves_with_the_root(tmp_path: Path) -> None:
    """A scratch root keeps the agent away from the real paths; the option goes before the environment."""
    paths = Paths.choose(tmp_path, {"EBS_AGENT_ROOT": "/elsewhere"})
    assert not paths.is_real
    for path in (paths.policy, paths.hooks, paths.state, paths.runtime, paths.socket, paths.dev_ebs):
        assert path.is_relative_to(tmp_path)
    assert Paths.choose(environment={"EBS_AGENT_ROOT": str(tmp_path)}) == paths
