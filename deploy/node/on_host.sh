#!/usr/bin/env bash
# The node's part of the pod that installs the agent there: on_host.sh install|remove
#
# `install` puts the bundle beside this script in force, with the policy beside it where there is one. A version that
# did not become ready was replaced by the one before, and is not tried again before bundle or policy are others. One
# that is newer and was installed by other means stays. `remove` leaves volumes, policy and records.
# Exit status: 0 in force, or removed; 1 not; 3 went back to what was before; 4 a newer one is in force.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly home=${EBS_AGENT_DESTDIR:-}/opt/ebs-agent
# The release that was installed by this script last.
readonly installed=$home/.by-pod
# The digest of what did not become ready here.
readonly refused=$home/.refused

say() { printf '%s %s: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${0##*/}" "$*"; }
fail() {
    say "error: $2" >&2
    exit "$1"
}

digest() { # of bundle and policy
    local files=("$here/bundle.tar.gz") sum
    [[ ! -e $here/policy.yaml ]] || files+=("$here/policy.yaml")
    sum=$(cat "${files[@]}" | sha256sum)
    printf '%s\n' "${sum%% *}"
}

is_said() { # is_said FILE WORDS
    [[ -e $1 && $(<"$1") == "$2" ]]
}

leave_newer() { # leave_newer VERSION
    local release version
    release=$(readlink "$home/current") && version=$(<"$home/current/share/ebs-agent/VERSION") || return 0
    if is_said "$installed" "$release" || [[ $version == "$1" ]]; then return 0; fi
    [[ $(printf '%s\n' "$version" "$1" | sort --version-sort | tail --lines=1) == "$1" ]] ||
        fail 4 "$version is in force, by other means than a pod, and newer than $1: it stays"
}

install() {
    local tried arguments=() status=0
    tried=$(digest)
    ! is_said "$refused" "$tried" ||
        fail 3 "this version did not become ready here with this policy; to try it again, remove $refused"
    mkdir "$here/bundle"
    tar --extract --gzip --file "$here/bundle.tar.gz" --directory "$here/bundle" --strip-components=1 --no-same-owner
    leave_newer "$(<"$here/bundle/VERSION")"
    [[ ! -e $here/policy.yaml ]] || arguments+=(--policy "$here/policy.yaml")
    bash "$here/bundle/install.sh" "${arguments[@]}" || status=$?
    case $status in
        0)
            readlink "$home/current" >"$installed"
            rm -f "$refused"
            ;;
        3) printf '%s\n' "$tried" >"$refused" ;;
    esac
    return "$status"
}

remove() {
    local own=$home/current/share/ebs-agent/uninstall.sh
    if [[ ! -e $own ]]; then
        say "no agent is here"
        return
    fi
    # A copy, since it removes where it lies.
    cp --recursive "${own%/*}" "$here/own"
    bash "$here/own/uninstall.sh"
}

case ${1:-} in
    install | remove) "$1" ;;
    *) fail 2 "usage: on_host.sh install|remove" ;;
esac
