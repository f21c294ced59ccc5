#!/usr/bin/env bash
# Puts a release in force that is still installed: rollback.sh [RELEASE]
#
# Without a name, the newest that is not in force now. Mounts stay mounted.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
# shellcheck source=lifecycle_scripts/common.sh
source "$here/common.sh"

list_releases() { # complete ones, newest first
    local place
    for place in "$home"/*/"$stamp"; do
        place=${place%/*}
        [[ -L $place || ! -e $place/$stamp ]] || printf '%s %s\n' "$(stat --format=%Y "$place/$stamp")" "${place##*/}"
    done | sort --numeric-sort --reverse | cut --delimiter=' ' --fields=2-
}

choose_other() {
    local name
    for name in $(list_releases); do
        if [[ $name != "$1" ]]; then
            printf '%s\n' "$name"
            return
        fi
    done
    return 1
}

main() {
    local now wanted volumes
    need_root
    take_lock
    now=$(release_in_force) || now=none
    wanted=${1:-$(choose_other "$now")} || fail "there is no release but $now"
    [[ -e $home/$wanted/$stamp ]] || fail "there is no release $wanted; here are: $(list_releases | tr '\n' ' ')"
    volumes=$(usable_volumes || true)
    say "from $now to $wanted"
    start_release "$wanted" || fail "release $wanted does not become ready: journalctl -u ebs-agent"
    is_healthy "$wanted" "$volumes" || fail "release $wanted runs, but not everything is as before"
    rm -f "$unproven"
    say "release $wanted is in force"
}

main "$@"
