#!/usr/bin/env bash
# An example hook: has containerd and Docker keep images on the volume that the policy calls `container-cache`.
#
# When it is ready, /var/lib/containerd and /var/lib/docker become links to directories on it; what they held is
# moved, unless the volume brings an older cache with it, as on a replaced node. Nothing is moved from under running
# containers. After a reboot the links are there before the volume is: a runtime that starts early fails and is
# restarted by systemd, and never fills the root disk. EBS_AGENT_HOLD in ebs-agent.conf makes it wait instead.
set -euo pipefail

readonly volume_name=container-cache
readonly var_lib=${EBS_HOOK_VAR_LIB:-/var/lib}

say() { echo "container-cache: $*"; }

is_installed() { systemctl cat "$1.service" >/dev/null 2>&1; }

has_containers() { pgrep --full 'containerd-shim|docker-containerd' >/dev/null; }

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

move() { # move PATH
    local runtime active=()
    # Docker first, since it needs containerd.
    for runtime in docker containerd; do
        is_installed "$runtime" || continue
        if [[ $(readlink "$var_lib/$runtime") == "$1/$runtime" ]]; then
            rm -rf "$var_lib/$runtime.moved" # of a run that was cut short
            continue
        fi
        if has_containers; then
            say "not moved: containers are running; drain the node and start the agent again" >&2
            return 1
        fi
        if systemctl --quiet is-active "$runtime.service"; then active=("$runtime" "${active[@]}"); fi
        if [[ $runtime == docker ]]; then systemctl stop docker.socket 2>/dev/null || true; fi
        systemctl stop "$runtime.service"
        link_data "$runtime" "$1"
    done
    for runtime in "${active[@]}"; do systemctl start "$runtime.service"; done
}

case ${1:-} in
    ready)
        [[ $EBS_AGENT_NAME == "$volume_name" ]] || exit 0
        # Copying takes longer than a hook may, and goes on when the agent is restarted.
        systemd-run --quiet --collect --unit=ebs-container-cache "$(readlink -f "$0")" move "$EBS_AGENT_PATH"
        ;;
    move) move "$2" ;;
esac
