#!/usr/bin/env bash
# Puts a release in force that is still installed: rollback.sh [RELEASE]
#
# Without a name, the newest that is not in force now. One that does not become ready is replaced again by the one
# in force now. A release that cannot read the policy in force gets the one it worked with last. Mounts stay mounted.
# Exit status: 0 done, 1 not, 3 back at what was before.
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

# choose_policy RELEASE: prints the one it worked with last, nothing where the one in force is to stay.
choose_policy() {
    ! "$home/$1/bin/ebs-agent" check "$policy_in_force" >/dev/null 2>&1 || return 0
    [[ -e $home/$1/$last_policy ]] || return 0
    warn "release $1 does not read the policy in force: it gets the one it worked with last"
    printf '%s\n' "$home/$1/$last_policy"
}

main() {
    local now wanted policy
    need_root
    take_lock
    now=$(release_in_force) || now=none
    wanted=${1:-$(choose_other "$now")} || fail "there is no release but $now"
    [[ -e $home/$wanted/$stamp ]] || fail "there is no release $wanted; here are: $(list_releases | tr '\n' ' ')"
    say "from $now to $wanted"
    policy=$(choose_policy "$wanted")
    take_over "$wanted" "$policy"
}

main "$@"
