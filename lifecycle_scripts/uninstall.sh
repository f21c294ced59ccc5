#!/usr/bin/env bash
# Removes the agent and leaves every volume as it is, mounted and with its data; says what it left.
#
# The policy and the agent's records stay too, so that it may be installed again: --purge removes those. It is refused
# while pods have volumes by the agent, which nobody takes back until it is here again: --force does it all the same.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
# shellcheck source=lifecycle_scripts/common.sh
source "$here/common.sh"

readonly state=$dest/var/lib/ebs-agent

stop_services() { # it ends without unmounting anything
    systemctl --quiet disable --now "${all_units[@]}" 2>/dev/null || true
    systemctl --quiet stop "${templates[@]/@./@*.}" 2>/dev/null || true
}

refuse_while_pods_have_volumes() { # asked of its notes, so that it need not run; older releases know no pods
    local code=0
    [[ -x $home/current/bin/ebs-agent ]] || return 0
    "$home/current/bin/ebs-agent" withdraw --check || code=$?
    ((code != 5)) || fail "pods have volumes by the agent: drain the node first, or say --force"
}

withdraw_driver() { # kubelet lets go of the driver, and pods that need it are started elsewhere
    [[ -x $home/current/bin/ebs-agent ]] || return 0
    "$home/current/bin/ebs-agent" withdraw --force ||
        warn "kubelet may take the driver for present until plugins_registry/*-reg.sock below its root is removed"
}

remove_files() {
    local unit file
    for unit in "${all_units[@]}" "${templates[@]}"; do rm -f "$units/$unit"; done
    for file in "$units"/*.service.d/"$drop_in"; do
        [[ -e $file ]] || continue
        rm -f "$file"
        rmdir --ignore-fail-on-non-empty "${file%/*}"
    done
    [[ ! -L $command_link ]] || rm -f "$command_link"
    rm -rf "$dest/run/ebs-agent" "$dest/run/ebs-agent-faces"
    # The directory may be a mount point of its own.
    find "$home" -mindepth 1 -maxdepth 1 ! -name lost+found -exec rm -rf {} + 2>/dev/null || true
    rmdir --ignore-fail-on-non-empty "$home" 2>/dev/null || true
    systemctl daemon-reload
}

remove_users() {
    local user
    for user in ebs-agent ebs-agent-cloud ebs-agent-mqtt ebs-agent-web; do
        ! getent passwd "$user" >/dev/null || userdel "$user" || true
        ! getent group "$user" >/dev/null || groupdel "$user" || true
    done
}

list_mounts() { # what the agent mounted, by its own records of what is usable
    [[ -x $home/current/bin/ebs-agent ]] || return 0
    ask_agent "'\n'.join(f\"  {v['path']}  ({v['volume_id']}, {v['device']})\" for v in node['volumes'] if v['path'])" || true
}

main() {
    local mounts option purge='' force=''
    for option; do
        case $option in
            --purge) purge=1 ;;
            --force) force=1 ;;
            *)
                say "usage: uninstall.sh [--purge] [--force]" >&2
                exit 2
                ;;
        esac
    done
    need_root
    take_lock
    [[ -n $force ]] || refuse_while_pods_have_volumes
    mounts=$(list_mounts)
    stop_services
    withdraw_driver
    remove_files
    [[ -z $purge ]] || rm -rf "$etc" "$state"
    [[ -z $purge ]] || remove_users
    say "the agent is removed"
    if [[ -n $mounts ]]; then
        say "these volumes stay as they are until somebody unmounts them or the node is rebooted:"
        printf '%s\n' "$mounts"
    fi
    [[ -n $purge ]] || say "these stay: $etc (policy, hooks), $state (records); --purge removes them"
}

main "$@"
