#!/usr/bin/env bash
# An example hook: has containerd and Docker keep images on the volume that the policy calls `container-cache`.
#
# When it is ready, /var/lib/containerd and /var/lib/docker become links to directories on it; what they held is
# moved, unless the volume brings an older cache with it, as on a replaced node. Nothing is moved from under running
# containers. After a reboot the links are there before the volume is: a runtime that starts early fails and is
# restarted by systemd, and never fills the root disk. EBS_AGENT_HOLD in ebs-agent.conf makes it wait instead.
#
# Whoever fills a runtime's directory decides what its containers run, as root. So an older cache is taken only
# where it is root's, in a place that only root may write to, and bears the mark that this hook leaves in it; a
# volume from elsewhere is refused. Whatever goes wrong, runtimes that were stopped are started again.
set -euo pipefail

readonly volume_name=container-cache
readonly var_lib=${EBS_HOOK_VAR_LIB:-/var/lib}
readonly mark=.ebs-agent-container-cache

say() { echo "container-cache: $*"; }

refuse() {
    say "$*" >&2
    exit 1
}

is_installed() { systemctl cat "$1.service" >/dev/null 2>&1; }

has_containers() { pgrep --full 'containerd-shim|docker-containerd' >/dev/null; }

is_of_root() { # is_of_root PATH KIND: no link, of that kind as stat(1) has it, root's, and writable by nobody else
    local kind owner mode
    IFS=: read -r kind owner mode < <(stat --format='%F:%u:%a' -- "$1" 2>/dev/null) || return 1
    [[ $kind == "$2"* && $owner == "$EUID" ]] && ((!(0$mode & 022)))
}

is_marked() { is_of_root "$1" directory && is_of_root "$1/$mark" regular; }

has_mounts() { # has_mounts DIRECTORY: something is mounted on it, or below it
    awk -v path="$1" '$5 == path || index($5, path "/") == 1 { found = 1 } END { exit !found }' \
        /proc/self/mountinfo
}

# check RUNTIME VOLUME: leaves all as it is; refuses what cannot be moved, before anything is stopped for it.
check() {
    local data=$var_lib/$1 store=$2/$1 needed available
    is_of_root "$2" directory || refuse "$2 is not a directory that only root may write to: set mode \"0755\""
    if [[ -e $store || -L $store ]] && ! is_marked "$store"; then
        refuse "$store was not made by this hook. If you know what it is, remove it, or: touch $store/$mark"
    fi
    ! has_mounts "$data" || refuse "something is mounted at or below $data"
    [[ ! -e $store && -d $data && ! -L $data ]] || return 0
    needed=$(du --summarize --block-size=1K "$data" | cut --fields=1)
    available=$(df --output=avail --block-size=1K "$2" | tail --lines=1)
    ((needed < available)) || refuse "$data has $needed KiB, and $2 has room for $available KiB"
}

# link_data RUNTIME STORE: may be cut short at any line and run again.
link_data() {
    local data=$var_lib/$1 store=$2/$1
    if [[ ! -e $store ]]; then
        rm -rf "$store.new"
        if [[ -d $data && ! -L $data ]]; then
            cp --archive --reflink=auto "$data" "$store.new"
        else
            mkdir --mode=0711 "$store.new"
        fi
        : >"$store.new/$mark"
        sync --file-system "$2"
        mv --no-target-directory "$store.new" "$store"
    fi
    if [[ -d $data && ! -L $data ]]; then
        rm -rf "$data.moved"
        mv --no-target-directory "$data" "$data.moved"
    fi
    ln --symbolic --force --no-dereference "$store" "$data"
    rm -rf "$data.moved"
    say "$data is now $store"
}

stopped=()

stop() { # stop UNIT: it is started again when this ends, however it does
    ! systemctl --quiet is-active "$1" || stopped=("$1" "${stopped[@]}")
    systemctl stop "$1"
}

undo() { # undo VOLUME: a move that failed half way leaves each runtime with the data it had
    local runtime data unit is_down=
    for runtime in docker containerd; do
        data=$var_lib/$runtime
        if [[ ! -e $data && ! -L $data && -d $data.moved ]]; then
            mv --no-target-directory "$data.moved" "$data" || say "what $data held is in $data.moved" >&2
        fi
        rm -rf "$1/$runtime.new"
    done
    for unit in "${stopped[@]}"; do
        systemctl start "$unit" || is_down=1
    done
    [[ -z $is_down ]] || refuse "not all of ${stopped[*]} start again"
}

move() { # move PATH
    local runtime waiting=()
    # Docker first, since it needs containerd.
    for runtime in docker containerd; do
        is_installed "$runtime" || continue
        if [[ $(readlink "$var_lib/$runtime") == "$1/$runtime" ]]; then
            rm -rf "$var_lib/$runtime.moved" # of a run that was cut short
            continue
        fi
        check "$runtime" "$1"
        waiting+=("$runtime")
    done
    ((${#waiting[@]})) || return 0
    ! has_containers || refuse "containers are running; drain the node and start the agent again"
    # shellcheck disable=SC2064 # the path is known now
    trap "undo $(printf '%q' "$1")" EXIT
    trap 'exit 143' TERM INT HUP
    for runtime in "${waiting[@]}"; do
        if [[ $runtime == docker ]] && systemctl --quiet is-active docker.socket; then stop docker.socket; fi
        stop "$runtime.service"
    done
    for runtime in "${waiting[@]}"; do link_data "$runtime" "$1"; done
}

case ${1:-} in
    ready)
        [[ $EBS_AGENT_NAME == "$volume_name" ]] || exit 0
        # Copying takes longer than a hook may, and goes on when the agent is restarted.
        systemd-run --quiet --collect --unit=ebs-container-cache "$(readlink -f "$0")" move "$EBS_AGENT_PATH"
        ;;
    move) move "$2" ;;
esac
