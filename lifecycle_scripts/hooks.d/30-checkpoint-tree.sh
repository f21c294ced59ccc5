#!/usr/bin/env bash
# An example hook: prepares the directories of the volume that the policy calls `checkpoints`.
#
#   shared/        for everybody of the group, who all may write what another has made there
#   users/NAME/    for each person with an account on the node, and nobody else
# What is there already stays as it is, owner and mode included.
set -euo pipefail

readonly volume_name=checkpoints
readonly group=${EBS_HOOK_GROUP:-users}

[[ ${1:-} == ready && $EBS_AGENT_NAME == "$volume_name" ]] || exit 0

make_directory() { # make_directory PATH OWNER GROUP MODE
    [[ ! -e $1 && ! -L $1 ]] || return 0
    # It gets its name once it is its owner's, so that a hook cut short leaves nothing half made.
    rm -rf "$1.new"
    mkdir --mode=0700 "$1.new"
    chown "$2:$3" "$1.new"
    chmod "$4" "$1.new"
    mv --no-target-directory "$1.new" "$1"
}

list_people() {
    getent passwd | while IFS=: read -r name _ uid gid _; do
        if ((uid >= 1000 && uid < 60000)); then echo "$name $gid"; fi
    done
}

make_directory "$EBS_AGENT_PATH/shared" root "$group" 2775
make_directory "$EBS_AGENT_PATH/users" root root 0755
list_people | while read -r name gid; do
    make_directory "$EBS_AGENT_PATH/users/$name" "$name" "$gid" 0700
done
