#!/usr/bin/env bash
# An example hook: prepares the directories of the volume that the policy calls `checkpoints`.
#
#   shared/        for everybody of the group, who all may write what another has made there
#   users/NAME/    for each person with an account on the node, and nobody else
# What is there already stays as it is, owner and mode included.
#
# A mounted volume is hostile ground: whoever may write to it can put a link wherever a path leads. So owners and
# modes are given to open directories, never to paths, and nothing is made where others could exchange it: give
# the volume's root mode "1770" in the policy, not "0770".
set -euo pipefail

readonly volume_name=checkpoints
export EBS_HOOK_GROUP=${EBS_HOOK_GROUP:-users}

[[ ${1:-} == ready && $EBS_AGENT_NAME == "$volume_name" ]] || exit 0

python=/opt/ebs-agent/current/bin/python
[[ -x $python ]] || python=python3
exec "$python" -I - "$EBS_AGENT_PATH" <<'PYTHON'
import contextlib
import grp
import os
import stat
import subprocess
import sys

ROOT = 0
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_trusted(path, parent=None):
    """Open a directory in which nobody but root can rename or replace what root makes."""
    fd = os.open(path, DIRECTORY, dir_fd=parent)
    facts = os.fstat(fd)
    if facts.st_uid != ROOT:
        sys.exit(f"checkpoint-tree: {path} belongs to user {facts.st_uid}, not to root; nothing is made in it")
    if facts.st_mode & 0o022 and not facts.st_mode & stat.S_ISVTX:
        sys.exit(
            f"checkpoint-tree: others may rename what is in {path} (mode {stat.S_IMODE(facts.st_mode):04o}); "
            'nothing is made in it. Give the mount mode: "1770" in the policy, or chmod +t'
        )
    return fd


def make_directory(parent, name, uid, gid, mode):
    """Make a directory that gets its name once it is its owner's, so that a hook cut short leaves none half made."""
    with contextlib.suppress(FileNotFoundError):
        os.lstat(name, dir_fd=parent)
        return
    made = f"{name}.new"
    with contextlib.suppress(FileExistsError):
        os.mkdir(made, 0o700, dir_fd=parent)
    fd = os.open(made, DIRECTORY, dir_fd=parent)
    try:
        facts = os.fstat(fd)
        # One that is there already is of a run that was cut short: of root, or given to its owner, and empty.
        if facts.st_uid not in {ROOT, uid} or os.listdir(fd):
            sys.exit(f"checkpoint-tree: {made} is not what this hook makes; look at it and remove it")
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)
        os.rename(made, name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        os.close(fd)


def list_people():
    listed = subprocess.run(["getent", "passwd"], stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in listed.splitlines():
        name, _, uid, gid, *_ = line.split(":")
        if 1000 <= int(uid) < 60000 and "/" not in name and name not in {"", ".", ".."}:
            yield name, int(uid), int(gid)


root = open_trusted(sys.argv[1])
make_directory(root, "shared", ROOT, grp.getgrnam(os.environ["EBS_HOOK_GROUP"]).gr_gid, 0o2775)
make_directory(root, "users", ROOT, ROOT, 0o755)
users = open_trusted("users", root)
for name, uid, gid in list_people():
    make_directory(users, name, uid, gid, 0o700)
PYTHON
