#!/usr/bin/env bash
# Puts a release in force that is still installed: rollback.sh [RELEASE]
#
# Without a name, the newest that is not in force now. One that does not become ready is replaced again by the one
# in force now. Mounts stay mounted. Exit status: 0 done, 1 not, 3 back at what was before.
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
    local now wanted
    need_root
    take_lock
    now=$(release_in_force) || now=none
    wanted=${1:-$(choose_other "$now")} || fail "there is no release but $now"
    [[ -e $home/$wanted/$stamp ]] || fail "there is no release $wanted; here are: $(list_releases | tr '\n' ' ')"
    say "from $now to $wanted"
    take_over "$wanted"
}

main "$@"
