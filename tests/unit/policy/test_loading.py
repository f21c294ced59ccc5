from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.core.errors import ExitCode
from agent.policy import PolicyError, diff_policies
from agent.policy.reading import load_policy
from tests.unit.policy.samples import VOL_A, make_entry, make_policy, make_volumes

VALID = "version: 1\nvolumes:\n" + make_entry("a", f"{{volume_id: {VOL_A}}}")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A valid policy that only its owner may write."""
    path = tmp_path / "policy.yaml"
    path.write_text(VALID)
    path.chmod(0o644)
    return path


def test_a_valid_policy_is_loaded(file: Path) -> None:
    """The file becomes the policy it says."""
    policy = load_policy(file, trust_owner=True)
    assert [entry.name for entry in policy.volumes] == ["a"]
    assert policy.agent.resync_s == 60
    assert (policy.agent.http.host, policy.agent.http.port) == ("127.0.0.1", 9842)


@needs_root
def test_roots_own_policy_is_loaded(file: Path) -> None:
    """A file that only root can change is trusted."""
    assert load_policy(file).volumes


@needs_root
@pytest.mark.parametrize(
    ("uid", "mode", "words", "command"),
    [
        (1000, 0o644, "belongs to user 1000", "chown root:root {}"),
        (0, 0o664, "has mode 0664", "chmod go-w {}"),
        (0, 0o646, "has mode 0646", "chmod go-w {}"),
        (1000, 0o666, "belongs to user 1000 and has mode 0666", "chown root:root {0} && chmod go-w {0}"),
    ],
)
def test_a_policy_others_can_change_is_refused(
    file: Path, uid: int, mode: int, words: str, command: str
) -> None:
    """What the policy says is done as root, so the error tells how to make it root's alone."""
    os.chown(file, uid, 0)
    file.chmod(mode)
    with pytest.raises(PolicyError, match=words) as caught:
        load_policy(file)
    assert caught.value.hint is not None
    assert command.format(file) in caught.value.hint
    assert load_policy(file, trust_owner=True).volumes


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_only_a_file_is_a_policy(tmp_path: Path, make: object) -> None:
    """A directory or a FIFO is refused, and does not hold up the agent."""
    path = tmp_path / "policy.yaml"
    make(path)  # type: ignore[operator]
    with pytest.raises(PolicyError, match="is not a file"):
        load_policy(path, trust_owner=True)


def test_an_absent_policy_says_what_to_do(tmp_path: Path) -> None:
    """Without a policy the error names the path."""
    with pytest.raises(PolicyError, match="There is no policy at ") as caught:
        load_policy(tmp_path / "nowhere")
    assert caught.value.hint is not None


def test_all_problems_travel_with_the_error(file: Path) -> None:
    """The error is usage, not to be tried again, and carries each problem."""
    file.write_text("version: 1\na: 1\nb: 2\n")
    with pytest.raises(PolicyError) as caught:
        load_policy(file, trust_owner=True)
    error = caught.value
    assert (error.exit_code, error.retryable) == (ExitCode.USAGE, False)
    assert [(problem.line, problem.where) for problem in error.problems] == [(2, "a"), (3, "b")]
    assert "2 problems; the first is line 2, column 1: a" in error.message


def test_a_reload_is_summed_up() -> None:
    """The change between two policies is told by names of entries and sections."""
    old = make_policy(
        "agent: {resync: 60s}\nclasses: {c: {}, d: {}}\nvolumes:\n"
        + make_entry("gone", "{size: 1GiB}")
        + make_entry("same", "{size: 2GiB}")
        + make_entry("other", "{size: 3GiB}")
    )
    new = make_policy(
        "agent: {resync: 30s}\nclasses: {c: {iops: 4000}, d: {}}\nvolumes:\n"
        + make_entry("other", "{size: 3GiB}", more="    grow: true\n")
        + make_entry("same", "{size: 2GiB}")
        + make_entry("fresh", "{size: 1GiB}", path="/data/gone")
    )
    change = diff_policies(old, new)
    assert (change.added, change.removed, change.changed) == (("fresh",), ("gone",), ("other",))
    assert change.sections == ("agent.resync", "classes.c")
    assert change.describe() == "added fresh; removed gone; changed other, agent.resync, classes.c"
    assert not diff_policies(old, old)
    assert diff_policies(old, old).describe() == "nothing"


def test_moving_an_entry_changes_nothing() -> None:
    """The order of entries has no meaning."""
    one, two = make_entry("a", "{size: 1GiB}"), make_entry("b", "{size: 2GiB}")
    assert not diff_policies(make_volumes(one, two), make_volumes(two, one))
