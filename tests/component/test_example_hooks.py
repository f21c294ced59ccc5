"""The example hooks as they are shipped, on a directory that they take for a node."""

from __future__ import annotations

import grp
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.report.hook_files import list_hooks
from tests.fakes.bundle import SCRIPTS, Node

HOOKS = SCRIPTS / "hooks.d"
CACHE = HOOKS / "20-container-cache.sh"
TREE = HOOKS / "30-checkpoint-tree.sh"
ENROOT = HOOKS / "40-enroot.sh"
MARK = ".ebs-agent-container-cache"

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
        self.job: dict[str, str] = {}
        """What Slurm tells its prolog."""
        self.volume.mkdir(parents=True)
        self.add_data("image")
        (root / "runs").touch()
        self.add_program("systemctl", SYSTEMCTL)
        self.add_program("pgrep", "[[ -e $dest/has-containers ]]")
        self.add_program("systemd-run", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')

    @property
    def etc(self) -> Path:
        """Where enroot's settings are."""
        return self.root / "etc/enroot"

    def add_data(self, content: str) -> None:
        """Have containerd hold something of its own, on the root disk."""
        self.data.mkdir(parents=True)
        (self.data / "blob").write_text(content)

    def plant(self, content: str, name: str = "containerd") -> None:
        """Have the volume bring a directory for containerd."""
        (self.volume / name).mkdir()
        (self.volume / name / "blob").write_text(content)

    def tell(self, hook: Path, *words: str, name: str, path: Path | None = None, kill_at: int = 0) -> int:
        """Run a hook as the agent does; return its exit status."""
        environment = {
            "EBS_AGENT_NAME": name,
            "EBS_AGENT_PATH": str(path or self.volume),
            "EBS_HOOK_VAR_LIB": str(self.data.parent),
            "EBS_HOOK_ETC": str(self.root / "etc"),
            "EBS_HOOK_RUN": str(self.root),
            **self.job,
        }
        return self.run(hook, *words, kill_at=kill_at, environment=environment).returncode

    def check_unmoved(self) -> None:
        assert not self.data.is_symlink()
        assert (self.data / "blob").read_text() == "image"
        assert (self.root / "runs").exists(), "containerd runs"
        assert sorted(path.name for path in self.data.parent.iterdir()) == ["containerd"]

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
    assert list_hooks(directory, os.geteuid()) == tuple(
        directory / hook.name for hook in (CACHE, TREE, ENROOT)
    )


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
    cluster.plant("from before")
    (cluster.volume / "containerd" / MARK).touch()
    assert cluster.tell(CACHE, "ready", name="container-cache") == 0
    cluster.check_moved("from before")


def plant_unmarked(cluster: Cluster) -> None:
    cluster.plant("planted")


def plant_link(cluster: Cluster) -> None:
    cluster.plant("planted", "elsewhere")
    (cluster.volume / "elsewhere" / MARK).touch()
    (cluster.volume / "containerd").symlink_to("elsewhere")


def plant_link_to_nothing(cluster: Cluster) -> None:
    (cluster.volume / "containerd").symlink_to("/nonexistent")


def plant_linked_mark(cluster: Cluster) -> None:
    cluster.plant("planted")
    (cluster.volume / "containerd" / MARK).symlink_to("/etc/passwd")


def plant_mark_anyone_can_change(cluster: Cluster) -> None:
    cluster.plant("planted")
    (cluster.volume / "containerd" / MARK).touch()
    (cluster.volume / "containerd" / MARK).chmod(0o666)


def plant_store_anyone_can_change(cluster: Cluster) -> None:
    cluster.plant("planted")
    (cluster.volume / "containerd" / MARK).touch()
    (cluster.volume / "containerd").chmod(0o777)


def open_the_volume(cluster: Cluster) -> None:
    cluster.volume.chmod(0o1777)


@pytest.mark.parametrize(
    "prepare",
    [
        *(plant_unmarked, plant_link, plant_link_to_nothing, plant_linked_mark),
        *(plant_mark_anyone_can_change, plant_store_anyone_can_change, open_the_volume),
    ],
)
def test_a_volume_from_elsewhere_decides_nothing(
    cluster: Cluster, prepare: Callable[[Cluster], None]
) -> None:
    """What others may have put on the volume becomes no runtime's data, and nothing is stopped for it."""
    prepare(cluster)
    before = sorted(cluster.volume.rglob("*"))
    assert cluster.tell(CACHE, "ready", name="container-cache") == 1
    cluster.check_unmoved()
    assert sorted(cluster.volume.rglob("*")) == before
    assert cluster.count_calls("systemctl stop containerd.service") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
@pytest.mark.parametrize("below", ["", "blobs"])
def test_what_is_mounted_stays_where_it_is(cluster: Cluster, below: str) -> None:
    """A runtime's directory with a mount at it or in it is not moved, and nothing is stopped for it."""
    place = cluster.data / below
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)
    try:
        assert cluster.tell(CACHE, "ready", name="container-cache") == 1
        assert not cluster.data.is_symlink()
        assert cluster.count_calls("systemctl stop containerd.service") == 0
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("program", "script"),
    [
        ("cp", 'mkdir "${@: -1}"; echo "No space left on device" >&2; exit 1'),
        ("sync", "exit 1"),
        ("ln", "exit 1"),
        ("mv", '[[ $* == */lib/* ]] && exit 1; exec /bin/mv "$@"'),
    ],
)
def test_a_move_that_fails_leaves_the_runtime_running(cluster: Cluster, program: str, script: str) -> None:
    """Wherever it fails, containerd runs again on the data it had, and a later try goes well."""
    healthy = (cluster.root / "stubs" / program).read_text()
    cluster.add_program(program, script)
    assert cluster.tell(CACHE, "ready", name="container-cache") != 0
    assert (cluster.root / "runs").exists(), "containerd runs again"
    if program == "mv":  # nothing can be moved back then; but what is there was never moved away
        assert (cluster.data / "blob").read_text() == "image"
    else:
        cluster.check_unmoved()
    (cluster.root / "stubs" / program).write_text(healthy)
    assert cluster.tell(CACHE, "ready", name="container-cache") == 0
    cluster.check_moved("image")


def test_no_room_is_seen_before_anything_is_stopped(cluster: Cluster) -> None:
    """A volume that is too small for what the runtime holds is not begun to be filled."""
    cluster.add_program("df", "echo Avail; echo 0")
    assert cluster.tell(CACHE, "ready", name="container-cache") == 1
    cluster.check_unmoved()
    assert cluster.count_calls("systemctl stop containerd.service") == 0


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


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives directories to their owners")
MEMBER = 4242
"""A user of the volume's group, who is nobody else on this machine."""


@pytest.fixture
def people(cluster: Cluster) -> Cluster:
    """A node with one person's account, and a volume that the group of that person may write to."""
    listed = subprocess.run(["getent", "passwd"], capture_output=True, text=True, check=True).stdout
    cluster.add_program("getent", f"echo '{listed.splitlines()[0]}'; echo ada:x:1234:1235::/:/bin/sh")
    os.chown(cluster.volume, 0, grp.getgrnam("users").gr_gid)
    cluster.volume.chmod(0o1770)
    return cluster


@as_root
def test_the_checkpoint_tree(people: Cluster) -> None:
    """One directory for the group, one for each person; what is there already keeps owner and mode."""
    volume = people.volume
    (volume / "users").mkdir(mode=0o711)
    for _ in range(2):
        assert people.tell(TREE, "ready", name="checkpoints") == 0
        assert describe(volume / "shared") == (0, grp.getgrnam("users").gr_gid, 0o2775)
        assert describe(volume / "users")[2] == 0o711
        assert [path.name for path in (volume / "users").iterdir()] == ["ada"]
        assert describe(volume / "users/ada") == (1234, 1235, 0o700)
    (volume / "users/ada").chmod(0o755)
    assert people.tell(TREE, "ready", name="checkpoints") == 0
    assert describe(volume / "users/ada")[2] == 0o755


def describe(path: Path) -> tuple[int, int, int]:
    facts = path.lstat()
    return facts.st_uid, facts.st_gid, facts.st_mode & 0o7777


@as_root
def test_a_tree_cut_short_is_finished(people: Cluster) -> None:
    """What a run left half made is taken up: made and not given away, or given away and not named."""
    (people.volume / "shared.new").mkdir(mode=0o700)
    (people.volume / "users/ada.new").mkdir(parents=True)
    os.chown(people.volume / "users/ada.new", 1234, 1235)
    assert people.tell(TREE, "ready", name="checkpoints") == 0
    assert describe(people.volume / "shared")[2] == 0o2775
    assert [path.name for path in (people.volume / "users").iterdir()] == ["ada"]


def open_root(volume: Path) -> None:
    volume.chmod(0o770)


def link_users(volume: Path) -> None:
    (volume / "users").symlink_to(volume.parent / "victim")


def own_users(volume: Path) -> None:
    (volume / "users").mkdir()
    os.chown(volume / "users", MEMBER, 0)


def open_users(volume: Path) -> None:
    (volume / "users").mkdir()
    (volume / "users").chmod(0o777)


@as_root
@pytest.mark.parametrize("prepare", [open_root, link_users, own_users, open_users])
def test_nothing_is_made_where_others_could_exchange_it(
    people: Cluster, prepare: Callable[[Path], None]
) -> None:
    """The hook fails where a person could put something else in the place of what it makes."""
    victim = people.volume.parent / "victim"
    victim.mkdir(mode=0o700)
    prepare(people.volume)
    assert people.tell(TREE, "ready", name="checkpoints") != 0
    assert describe(victim) == (0, 0, 0o700)
    assert list(victim.iterdir()) == []


RACE = """
import os, stat, sys
volume, victim, gid = sys.argv[1:]
os.setgroups([int(gid)]); os.setgid(int(gid)); os.setuid({member})
os.chdir(volume)
print("go", flush=True)
names = ["shared", "users", "users/ada"] if os.fork() else ["shared.new", "users.new", "users/ada.new"]
mine = os.getppid()
while os.getppid() == mine:
    for name in names:
        try:
            if stat.S_ISDIR(os.lstat(name).st_mode):
                os.rename(name, name + ".gone")
                os.symlink(victim, name)
        except OSError:
            pass
"""


@as_root
@pytest.mark.parametrize("mode", [0o770, 0o1770])
def test_a_person_who_races_the_hook_gains_nothing(people: Cluster, mode: int) -> None:
    """Whatever a member of the group exchanges meanwhile, no file of root's changes its owner or mode."""
    victim = people.root / "victim"
    victim.touch(mode=0o600)
    gid = grp.getgrnam("users").gr_gid
    for path in (people.root, *people.root.parents):
        if describe(path)[2] & 0o011 != 0o011 and path.is_relative_to("/tmp"):  # noqa: S108
            path.chmod(0o711)
    argv = [sys.executable, "-c", RACE.format(member=MEMBER), str(people.volume), str(victim), str(gid)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as racing:
        try:
            assert racing.stdout is not None
            assert racing.stdout.readline() == b"go\n"
            for _ in range(8):
                people.volume.chmod(mode)
                people.tell(TREE, "ready", name="checkpoints")
                assert describe(victim) == (0, 0, 0o600)
                people.volume.chmod(0o700)
                for left in people.volume.iterdir():
                    left.unlink() if left.is_symlink() else shutil.rmtree(left)
        finally:
            racing.kill()


@pytest.fixture
def pyxis(people: Cluster) -> Cluster:
    """A node with enroot, whose settings name a directory of the root disk, and a volume of root's."""
    people.volume.chmod(0o755)
    people.add_program("mountpoint", "[[ ! -e $dest/is-away ]]")
    people.etc.mkdir(parents=True)
    (people.etc / "enroot.conf").write_text(
        "# as a package has it\nENROOT_RUNTIME_PATH /run/enroot\n ENROOT_DATA_PATH=/opt/enroot\n"
    )
    return people


def read_settings(cluster: Cluster, uid: int) -> dict[str, str]:
    """Return what enroot goes by: of each setting the first value, as a shell of the user's evaluates it."""
    files = [cluster.etc / "enroot.conf", *sorted((cluster.etc / "enroot.conf.d").glob("*.conf"))]
    script = """
    id() { echo "$uid"; }
    for file in "$@"; do
        bash -n "$file" || exit 1
        while IFS=$' \\t=' read -r key value; do
            [[ $key =~ ^ENROOT_[A-Z_]+$ && ! -v $key ]] || continue
            declare "$key=$(eval echo "$value")"
            echo "$key=${!key}"
        done <"$file"
    done
    """
    argv = ["bash", "-c", script, "-", *map(str, files)]
    done = subprocess.run(argv, env={"uid": str(uid)}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@as_root
def test_enroot_keeps_its_containers_on_the_volume(pyxis: Cluster) -> None:
    """Each person has directories of their own, which the settings name; told again, nothing changes."""
    before, home = (pyxis.etc / "enroot.conf").read_text(), pyxis.volume / "user-1234"
    for _ in range(2):
        assert pyxis.tell(ENROOT, "ready", name="enroot") == 0
        settings = read_settings(pyxis, 1234)
        named = [Path(settings[f"ENROOT_{key}_PATH"]) for key in ("CACHE", "DATA", "TEMP")]
        assert named == [home / "cache", home / "data", home / "tmp"]
        assert settings["ENROOT_RUNTIME_PATH"] == "/run/enroot"
        for path in (home, *home.iterdir()):
            assert describe(path) == (1234, 1235, 0o700)
        assert sorted(path.name for path in pyxis.volume.iterdir()) == ["user-0", "user-1234"]
        assert sorted(path.name for path in home.iterdir()) == ["cache", "data", "tmp"]
    assert (pyxis.etc / "enroot.conf.before-ebs-agent").read_text() == before
    (home / "data/image").write_text("unpacked")
    assert pyxis.tell(ENROOT, "ready", name="enroot") == 0
    assert (home / "data/image").read_text() == "unpacked"


@as_root
def test_a_job_of_a_directory_services_user_has_its_place(pyxis: Cluster) -> None:
    """The prolog makes the directories of whose job begins, and none while the volume is away."""
    prolog = SCRIPTS.parent / "monitoring/slurm/prolog"
    pyxis.add_program("ebs-agent", ":")
    pyxis.job = {"SLURM_JOB_UID": "70001", "SLURM_JOB_GID": "70002", "EBS_AGENT_HOOKS": str(HOOKS)}
    assert pyxis.tell(prolog, name="") == 0
    assert list(pyxis.volume.iterdir()) == []
    assert pyxis.tell(ENROOT, "ready", name="enroot") == 0
    (pyxis.root / "is-away").touch()
    assert pyxis.tell(prolog, name="") == 0
    assert pyxis.tell(ENROOT, "prolog", name="") == 1
    assert not (pyxis.volume / "user-70001").exists()
    (pyxis.root / "is-away").unlink()
    for _ in range(2):
        assert pyxis.tell(prolog, name="") == 0
        assert describe(pyxis.volume / "user-70001/cache") == (70001, 70002, 0o700)


@as_root
def test_other_volumes_and_events_leave_enroot_alone(pyxis: Cluster) -> None:
    """Only the volume of that name, and only when it is ready."""
    assert pyxis.tell(ENROOT, "ready", name="other") == 0
    assert pyxis.tell(ENROOT, "lost", name="enroot") == 0
    assert sorted(path.name for path in pyxis.etc.iterdir()) == ["enroot.conf"]
    assert list(pyxis.volume.iterdir()) == []


def share_the_volume(cluster: Cluster) -> None:
    cluster.volume.chmod(0o1777)


def give_the_volume(cluster: Cluster) -> None:
    os.chown(cluster.volume, MEMBER, 0)


def take_the_volume_away(cluster: Cluster) -> None:
    (cluster.root / "is-away").touch()


def have_no_enroot(cluster: Cluster) -> None:
    shutil.rmtree(cluster.etc)


def move_to_a_command(cluster: Cluster) -> None:
    cluster.volume = cluster.volume.with_name("$(id)")
    cluster.volume.mkdir()


@as_root
@pytest.mark.parametrize(
    "prepare",
    [share_the_volume, give_the_volume, take_the_volume_away, have_no_enroot, move_to_a_command],
)
def test_enroot_is_sent_nowhere_unsafe(pyxis: Cluster, prepare: Callable[[Cluster], None]) -> None:
    """Where others could prepare a user's directory, or a shell would run the path, nothing is changed."""
    prepare(pyxis)
    assert pyxis.tell(ENROOT, "ready", name="enroot") == 1
    assert not (pyxis.etc / "enroot.conf.d").exists()
    assert list(pyxis.volume.iterdir()) == []


@as_root
def test_a_directory_of_somebody_elses_is_told(pyxis: Cluster) -> None:
    """What a volume from elsewhere brings under a user's name is left alone, and the others are served."""
    (pyxis.volume / "user-1234").mkdir()
    assert pyxis.tell(ENROOT, "ready", name="enroot") == 1
    assert describe(pyxis.volume / "user-1234")[:2] == (0, 0)
    assert list((pyxis.volume / "user-1234").iterdir()) == []
    assert describe(pyxis.volume / "user-0/data") == (0, 0, 0o700)
    assert "ENROOT_DATA_PATH" in read_settings(pyxis, 0)


@as_root
@pytest.mark.parametrize("is_given", [False, True])
def test_directories_cut_short_are_finished(pyxis: Cluster, *, is_given: bool) -> None:
    """What a run left half made is taken up: not all in it, or all in it and without its name."""
    left = pyxis.volume / "user-1234.new"
    for part in ("cache", "data", "tmp") if is_given else ("cache",):
        (left / part).mkdir(parents=True)
    if is_given:
        os.chown(left, 1234, 1235)
    assert pyxis.tell(ENROOT, "ready", name="enroot") == 0
    assert sorted(path.name for path in (pyxis.volume / "user-1234").iterdir()) == ["cache", "data", "tmp"]
    assert not left.exists()


@as_root
def test_settings_cut_short_are_finished(pyxis: Cluster) -> None:
    """Killed at any step and run again, the settings are whole, and what they were before is kept."""
    number, before = 1, (pyxis.etc / "enroot.conf").read_text()
    while True:
        shutil.rmtree(pyxis.etc)
        pyxis.etc.mkdir()
        (pyxis.etc / "enroot.conf").write_text(before)
        if pyxis.tell(ENROOT, "ready", name="enroot", kill_at=number) == 0:
            break
        assert pyxis.tell(ENROOT, "ready", name="enroot") == 0
        assert read_settings(pyxis, 7)["ENROOT_DATA_PATH"] == f"{pyxis.volume}/user-7/data"
        assert (pyxis.etc / "enroot.conf.before-ebs-agent").read_text() == before
        number += 1
    assert number > 4
