"""The example hooks as they are shipped, on a directory that they take for a node."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.report.hooks import list_hooks
from tests.fakes.bundle import SCRIPTS, Node

HOOKS = SCRIPTS / "hooks.d"
CACHE = HOOKS / "20-container-cache.sh"
TREE = HOOKS / "30-checkpoint-tree.sh"

SYSTEMCTL = """
case "$*" in
    "cat containerd.service") ;;
    "cat "*) exit 1 ;;
    *"is-active containerd.service") [[ -e $dest/runs ]] ;;
    "stop containerd.service") rm -f "$dest/runs" ;;
    "start containerd.service") touch "$dest/runs" ;;
    *) exit 1 ;;
esac
"""


class Cluster(Node):
    """A node with containerd and a volume for its data."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.volume = root / "data/cache"
        self.data = root / "lib/containerd"
        self.volume.mkdir(parents=True)
        self.add_data("image")
        (root / "runs").touch()
        self.add_program("systemctl", SYSTEMCTL)
        self.add_program("pgrep", "[[ -e $dest/has-containers ]]")
        self.add_program("systemd-run", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')

    def add_data(self, content: str) -> None:
        """Have containerd hold something of its own, on the root disk."""
        self.data.mkdir(parents=True)
        (self.data / "blob").write_text(content)

    def tell(self, hook: Path, *words: str, name: str, path: Path | None = None, kill_at: int = 0) -> int:
        """Run a hook as the agent does; return its exit status."""
        environment = {
            "EBS_AGENT_NAME": name,
            "EBS_AGENT_PATH": str(path or self.volume),
            "EBS_HOOK_VAR_LIB": str(self.data.parent),
        }
        return self.run(hook, *words, kill_at=kill_at, environment=environment).returncode

    def check_moved(self, content: str) -> None:
        assert self.data.readlink() == self.volume / "containerd"
        assert (self.data / "blob").read_text() == content
        assert (self.root / "runs").exists(), "containerd runs again"
        assert sorted(path.name for path in self.volume.iterdir()) == ["containerd"]
        assert sorted(path.name for path in self.data.parent.iterdir()) == ["containerd"]


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path / "node")


def test_the_agent_would_run_them(tmp_path: Path) -> None:
    """Their names and modes are those of hooks once they are installed as on_create.sh does."""
    directory = tmp_path / "hooks.d"
    shutil.copytree(HOOKS, directory)
    for path in (directory, *directory.iterdir()):
        path.chmod(0o755)
    assert list_hooks(directory, os.geteuid()) == (directory / CACHE.name, directory / TREE.name)


def test_the_cache_moves_to_its_volume(cluster: Cluster) -> None:
    """Containerd runs and finds its data on the volume by the old path; told again, nothing happens."""
    assert cluster.tell(CACHE, "ready", name="container-cache") == 0
    cluster.check_moved("image")
    assert cluster.tell(CACHE, "ready", name="container-cache") == 0
    assert cluster.count_calls("systemctl stop containerd.service") == 1


def test_other_volumes_and_events_move_nothing(cluster: Cluster) -> None:
    """Only the volume of that name, and only when it is ready."""
    assert cluster.tell(CACHE, "ready", name="other") == 0
    assert cluster.tell(CACHE, "lost", name="container-cache") == 0
    assert not cluster.data.is_symlink()


def test_an_older_cache_is_taken_as_it_is(cluster: Cluster) -> None:
    """A volume that comes from a replaced node keeps its images; the fresh root's are given up."""
    (cluster.volume / "containerd").mkdir()
    (cluster.volume / "containerd/blob").write_text("from before")
    assert cluster.tell(CACHE, "ready", name="container-cache") == 0
    cluster.check_moved("from before")


def test_nothing_moves_from_under_running_containers(cluster: Cluster) -> None:
    """While containers run the hook fails, which the agent records, and changes nothing."""
    (cluster.root / "has-containers").touch()
    assert cluster.tell(CACHE, "ready", name="container-cache") == 1
    assert not cluster.data.is_symlink()
    assert cluster.count_calls("systemctl stop containerd.service") == 0


def test_a_move_cut_short_anywhere_is_finished_by_the_next(tmp_path: Path) -> None:
    """Killed at any step and run again, no data is lost and nothing is left over."""
    number = 1
    while True:
        cluster = Cluster(tmp_path / str(number))
        if cluster.tell(CACHE, "ready", name="container-cache", kill_at=number) == 0:
            break
        (cluster.root / "runs").touch()  # it may have been stopped; a boot starts it
        assert cluster.tell(CACHE, "ready", name="container-cache") == 0
        cluster.check_moved("image")
        number += 1
    assert number > 5


@pytest.mark.skipif(os.geteuid() != 0, reason="gives directories to their owners")
def test_the_checkpoint_tree(cluster: Cluster) -> None:
    """One directory for the group, one for each person; what is there already keeps owner and mode."""
    volume = cluster.volume
    people = subprocess.run(["getent", "passwd"], capture_output=True, text=True, check=True).stdout
    cluster.add_program("getent", f"echo '{people.splitlines()[0]}'; echo ada:x:1234:1235::/:/bin/sh")
    cluster.add_program("chown", "true")
    (volume / "users").mkdir(mode=0o711)
    assert cluster.tell(TREE, "ready", name="checkpoints") == 0
    assert (volume / "shared").stat().st_mode & 0o7777 == 0o2775
    assert (volume / "users").stat().st_mode & 0o7777 == 0o711
    assert [path.name for path in (volume / "users").iterdir()] == ["ada"]
    assert (volume / "users/ada").stat().st_mode & 0o7777 == 0o700
    assert cluster.count_calls("chown ada:1235") == 1
    assert cluster.tell(TREE, "ready", name="checkpoints") == 0
    assert cluster.count_calls("chown ada:1235") == 1
