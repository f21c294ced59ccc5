#!/usr/bin/env bash
# An example hook: has enroot, by which Slurm's Pyxis starts containers, keep images and containers on the volume that
# the policy calls `enroot`.
#
#   user-UID/{cache,data,tmp}    for each person with an account on the node, and nobody else
# Those of accounts that the node does not list, as of a directory service, are made when a job of theirs begins:
# Slurm's prolog runs `40-enroot.sh prolog`, as monitoring/slurm/prolog does. What enroot has elsewhere stays there.
#
# enroot takes the first value it reads of a setting, and reads enroot.conf before enroot.conf.d. So what enroot.conf
# says of the three directories is commented out; the file as it was is beside it. While the volume is not mounted
# nobody but root can make a directory in its place: a container does not start then, and never fills the root disk.
#
# Only root may write to the root of the volume (mode "0755" in the policy), so nobody can prepare the directory of
# another. Owners are given to open directories, never to paths.
set -euo pipefail
umask 022

readonly volume_name=enroot
readonly etc=${EBS_HOOK_ETC:-/etc}/enroot
readonly run=${EBS_HOOK_RUN:-/run}
readonly dropin=$etc/enroot.conf.d/00-ebs-agent.conf
readonly settings='ENROOT_(CACHE|DATA|TEMP)_PATH'

say() { echo "enroot: $*"; }

refuse() {
    say "$*" >&2
    exit 1
}

# make_directories VOLUME [UID]: of one user, or of all that the node lists.
make_directories() {
    local python=/opt/ebs-agent/current/bin/python lock
    [[ -x $python ]] || python=python3
    exec {lock}>"$run/ebs-agent-enroot.lock"
    flock "$lock" # several jobs may begin at once
    "$python" -I - "$@" <<'PYTHON'
import contextlib
import os
import pwd
import stat
import subprocess
import sys

ROOT = 0
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PARTS = ("cache", "data", "tmp")


def open_trusted(path):
    """Open a directory in which nobody but root can make anything."""
    fd = os.open(path, DIRECTORY)
    facts = os.fstat(fd)
    if facts.st_uid != ROOT or facts.st_mode & 0o022:
        sys.exit(f'enroot: others than root may write to {path}; nothing is made in it. Give the mount mode: "0755"')
    return fd


def give(fd, uid, gid):
    os.fchown(fd, uid, gid)
    os.fchmod(fd, 0o700)


def make(volume, uid, gid):
    """Make a user's directories, which get their name once they are theirs; return whether they are there."""
    name = f"user-{uid}"
    with contextlib.suppress(FileNotFoundError):
        facts = os.lstat(name, dir_fd=volume)
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == uid:
            return True
        print(f"enroot: {name} is not a directory of user {uid}; look at it and remove it", file=sys.stderr)
        return False
    made = f"{name}.new"
    with contextlib.suppress(FileExistsError):
        os.mkdir(made, 0o700, dir_fd=volume)
    fd = os.open(made, DIRECTORY, dir_fd=volume)
    try:
        # One that is there already is of a run that was cut short; once it is its user's all in it is made.
        if os.fstat(fd).st_uid == ROOT:
            for part in PARTS:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=fd)
                inner = os.open(part, DIRECTORY, dir_fd=fd)
                give(inner, uid, gid)
                os.close(inner)
            give(fd, uid, gid)
        os.rename(made, name, src_dir_fd=volume, dst_dir_fd=volume)
    finally:
        os.close(fd)
    return True


def list_people():
    listed = subprocess.run(["getent", "passwd"], stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in listed.splitlines():
        _, _, uid, gid, *_ = line.split(":")
        if 1000 <= int(uid) < 60000:
            yield int(uid), int(gid)


path, *one = sys.argv[1:]
people = [(int(uid), int(os.environ.get("SLURM_JOB_GID") or pwd.getpwuid(int(uid)).pw_gid)) for uid in one]
volume = open_trusted(path)
# Root is a user of containers as well.
sys.exit(not all([make(volume, uid, gid) for uid, gid in people or [(ROOT, ROOT), *list_people()]]))
PYTHON
}

configure() { # configure VOLUME
    local conf
    mkdir --parents "$etc/enroot.conf.d"
    {
        echo "# By ${EBS_AGENT_HOOK:-$0}: on the volume that the policy of ebs-agent calls $volume_name."
        echo "ENROOT_CACHE_PATH $1/user-\$(id -u)/cache"
        echo "ENROOT_DATA_PATH $1/user-\$(id -u)/data"
        echo "ENROOT_TEMP_PATH $1/user-\$(id -u)/tmp"
    } >"$dropin.new"
    mv --no-target-directory "$dropin.new" "$dropin"
    conf=$(readlink --canonicalize "$etc/enroot.conf")
    if [[ -f $conf ]] && grep --extended-regexp --quiet "^[[:space:]]*${settings}[[:space:]=]" "$conf"; then
        cp --archive "$conf" "$conf.before-ebs-agent"
        cp --archive "$conf" "$conf.new"
        sed --regexp-extended "s/^[[:space:]]*${settings}[[:space:]=]/# see enroot.conf.d: &/" "$conf" >"$conf.new"
        mv --no-target-directory "$conf.new" "$conf"
        say "$conf named other directories; as it was it is $conf.before-ebs-agent"
    fi
    say "images and containers are kept below $1"
}

ready() { # ready VOLUME
    local status=0
    [[ -d $etc ]] || refuse "there is no $etc. Once enroot is installed: systemctl restart ebs-agent"
    # enroot has a shell evaluate its settings, for each user.
    [[ $1 =~ ^[A-Za-z0-9/._-]+$ ]] || refuse "the path $1 has characters that enroot's settings cannot have"
    mountpoint --quiet "$1" || refuse "$1 is not mounted"
    if [[ $(stat --format='%u' "$1") != 0 ]] || ((0$(stat --format='%a' "$1") & 022)); then
        refuse "others than root may write to $1: set mode \"0755\""
    fi
    make_directories "$1" || status=$?
    configure "$1"
    exit "$status"
}

prolog() {
    local path
    [[ -e $dropin ]] || exit 0
    # shellcheck disable=SC2016 # enroot's shell is to ask who it is
    path=$(sed --quiet 's|^ENROOT_DATA_PATH \(.*\)/user-$(id -u)/data$|\1|p' "$dropin")
    mountpoint --quiet "$path" || refuse "$path is not mounted, and no container starts before it is"
    make_directories "$path" "$SLURM_JOB_UID"
}

case ${1:-} in
    ready) [[ $EBS_AGENT_NAME != "$volume_name" ]] || ready "$EBS_AGENT_PATH" ;;
    prolog) prolog ;;
esac
