#!/usr/bin/env bash
# Installs this bundle, or makes sure that it is installed: install.sh [--policy FILE] [--hooks DIR]
#
# A new version goes beside the one in force, takes over with the new policy and hooks, and is replaced by the old one
# with the old policy and hooks if it does not become ready. Mounts stay mounted throughout: the agent unmounts nothing
# when it ends.
# Settings by environment, see ebs-agent.conf. Exit status: 0 installed, 1 not, 3 rolled back to what was before.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
# shellcheck source=lifecycle_scripts/common.sh
source "$here/common.sh"

policy=
hooks=

read_arguments() {
    while (($#)); do
        case $1 in
            --policy) policy=${2:?--policy needs a file} ;;
            --hooks) hooks=${2:?--hooks needs a directory} ;;
            *)
                say "usage: install.sh [--policy FILE] [--hooks DIR]" >&2
                exit 2
                ;;
        esac
        shift 2
    done
}

check_bundle() { # every file is as it was made, and no other is there
    local listed found
    (cd "$here" && sha256sum --check --quiet --strict SHA256SUMS) || fail "the bundle is damaged"
    listed=$(cut --characters=67- "$here/SHA256SUMS" | sort)
    found=$(cd "$here" && find . -mindepth 1 ! -type d ! -path ./SHA256SUMS -printf '%P\n' | sort)
    [[ $found == "$listed" ]] ||
        fail "the bundle is damaged: SHA256SUMS does not list $(comm -13 <(echo "$listed") <(echo "$found") | head -n 3)"
}

# -- What the distribution has to have -----------------------------------------------------------------------

install_packages() {
    say "installing $*"
    if command -v apt-get >/dev/null; then
        retry 5 install_with_apt "$@"
    elif command -v dnf >/dev/null; then
        retry 5 dnf --quiet --assumeyes install "$@"
    else
        warn "no package manager is known here"
        return 1
    fi
}

install_with_apt() { # one that runs already, as at a first boot, is waited for
    local options=(--quiet --quiet -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0)
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get "${options[@]}" update &&
        DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 apt-get "${options[@]}" install \
            --yes --no-install-recommends "$@"
}

# find_python: prints the first that the bundle has wheels for.
find_python() {
    local candidate version
    for candidate in ${EBS_AGENT_PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        version=$(python_version "$candidate") && [[ -e $here/wheels/$version.txt ]] || continue
        command -v "$candidate"
        return
    done
    return 1
}

python_version() { # fails where it lacks what the agent needs of its standard library
    "$1" -I -c 'import sys, ctypes, ssl, venv; print("{}.{}".format(*sys.version_info))' 2>/dev/null
}

find_or_install_python() {
    find_python && return
    [[ -z ${EBS_AGENT_PYTHON:-} ]] || fail "EBS_AGENT_PYTHON=$EBS_AGENT_PYTHON is not a Python 3.10 to 3.13"
    if command -v dnf >/dev/null; then
        install_packages python3.11 >&2
    else
        install_packages python3 >&2
    fi || true
    find_python || fail "there is no Python 3.10 to 3.13 here, and none could be installed"
}

# Tools that this policy needs and the node lacks. Without them the agent runs and says what is missing.
install_tools() {
    local types packages=()
    types=$(grep --only-matching --extended-regexp 'type:[[:space:]]*"?(ext4|xfs|btrfs)' "$1" || true)
    [[ $types != *ext4* ]] || command -v mkfs.ext4 >/dev/null || packages+=(e2fsprogs)
    [[ $types != *xfs* ]] || command -v mkfs.xfs >/dev/null || packages+=(xfsprogs)
    [[ $types != *btrfs* ]] || command -v mkfs.btrfs >/dev/null || packages+=(btrfs-progs)
    if ! command -v sfdisk >/dev/null; then
        if command -v apt-get >/dev/null; then packages+=(fdisk); else packages+=(util-linux); fi
    fi
    ((${#packages[@]})) || return 0
    install_packages "${packages[@]}" || warn "these packages are missing: ${packages[*]}"
}

# Those of processes that speak with strangers: each its own, in no group but its own. The group ebs-agent may look at
# the control socket; its user is who releases before this one run those processes as.
make_users() {
    local user
    for user in ebs-agent ebs-agent-cloud ebs-agent-mqtt ebs-agent-web; do
        getent group "$user" >/dev/null || groupadd --system "$user"
        getent passwd "$user" >/dev/null ||
            useradd --system --gid "$user" --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
    done
}

# -- The release ---------------------------------------------------------------------------------------------

# choose_release ID: the version's own directory, or one beside it when that holds other bytes of this version.
choose_release() {
    local version
    version=$(<"$here/VERSION")
    if [[ -e $home/$version/$stamp && $(<"$home/$version/$stamp") != "$1" ]]; then
        version=$version-${1:0:8}
    fi
    printf '%s\n' "$version"
}

# make_release RELEASE ID PYTHON: a directory that is complete, or does not count.
make_release() {
    local place=$home/$1 share=$home/$1/share/ebs-agent wheels worker
    rm -rf "$place"
    mkdir -p "$home"
    say "installing into $place with $("$3" --version)"
    "$3" -I -m venv --without-pip "$place"
    mapfile -t wheels <"$here/wheels/$(python_version "$3").txt"
    "$place/bin/python" -I "$here/install_wheels.py" "${wheels[@]}"
    mkdir -p "$share" "$place/share/doc"
    cp --recursive --no-preserve=ownership "$here"/{systemd,hooks.d,VERSION,sbom.cdx.json,requirements.txt,*.sh} "$share"
    cp --recursive --no-preserve=ownership "$here/docs" "$place/share/doc/ebs-agent"
    # Shows that it is whole, and compiles what is used, which those without rights could not do later.
    "$place/bin/python" -I -c 'import agent.cloud.aws_worker.main' &
    worker=$!
    "$place/bin/python" -I -c 'import agent.cli.app, agent.daemon, agent.report.web.main, agent.report.broker.main, agent.report.mqtt.client'
    "$place/bin/python" -I -c 'import agent.cloud.identity.metadata_main, agent.report.hook_main, agent.report.web.listen_main'
    wait "$worker"
    "$place/bin/ebs-agent" --version >/dev/null
    sync --file-system "$place"
    printf '%s\n' "$2" >"$place/$stamp"
    sync "$place/$stamp" "$place"
}

# -- What belongs to the operator ----------------------------------------------------------------------------

# check_policy RELEASE: one with problems never replaces one that works.
check_policy() {
    local minimal
    if [[ -n $policy ]]; then
        if ! "$home/$1/bin/ebs-agent" check "$policy"; then
            [[ ! -e $policy_in_force ]] || fail "the policy has problems; the one in force stays"
            fail "the policy has problems"
        fi
        return
    fi
    [[ ! -e $policy_in_force ]] || return 0
    say "there is no policy: writing one that touches no volume"
    minimal=$(mktemp)
    printf '# No volume is touched until this file names it: docs/policy.md\nversion: 1\n' >"$minimal"
    put_file "$minimal" "$policy_in_force" 0644
    rm -f "$minimal"
}

# load_policy: the release in force goes on, with the new policy or, if it refuses that, with the one before.
load_policy() {
    is_changed=
    replace_policy "$policy"
    if [[ -n $is_changed ]] && ! systemctl reload ebs-agent.service; then
        restore_policy || true
        forget_before
        fail "the agent does not take the new policy; it goes on with the one before"
    fi
    replace_hooks "$hooks" # which the agent reads at each event
    forget_before
}

# Services that are not to start before the volumes: only those named in EBS_AGENT_HOLD, and no more those that were.
# Where nothing is said of it, not even that there are none, they stay: whoever installs says so of what is theirs.
install_drop_ins() {
    local service file named=' '
    [[ -n ${EBS_AGENT_HOLD+said} ]] || return 0
    for service in $EBS_AGENT_HOLD; do
        service=${service%.service}
        put_file "$here/systemd/wait-for-volumes.conf" "$units/$service.service.d/$drop_in" 0644
        named+="$service "
    done
    for file in "$units"/*.service.d/"$drop_in"; do
        service=${file%.service.d/*}
        service=${service##*/}
        [[ -e $file && $named != *" $service "* ]] || continue
        say "$service.service waits for volumes no more"
        rm -f "$file"
        rmdir --ignore-fail-on-non-empty "${file%/*}"
    done
}

# -- Taking over ---------------------------------------------------------------------------------------------

# is_settled RELEASE: it is in force, known to work, running, and its units are those on disk.
is_settled() {
    [[ ! -e $unproven && $(release_in_force) == "$1" ]] || return 1
    is_changed=
    install_units "$1"
    [[ -z $is_changed ]] || return 1
    systemctl --quiet is-enabled "${boot_units[@]}" 2>/dev/null && systemctl --quiet is-active ebs-agent.service
}

remove_old_releases() { # but for the one in force and the one to go back to
    local place name
    for place in "$home"/*/; do
        name=$(basename "$place")
        [[ ! -L $home/$name && $name != "$1" && $name != "$2" && -e $place/pyvenv.cfg ]] || continue
        say "removing release $name"
        rm -rf "$place"
    done
}

main() {
    local id release python previous
    need_root
    read_arguments "$@"
    take_lock
    check_bundle
    id=$(sha256sum "$here/SHA256SUMS")
    id=${id%% *}
    release=$(choose_release "$id")
    if [[ ! -e $home/$release/$stamp || $(<"$home/$release/$stamp") != "$id" ]]; then
        python=$(find_or_install_python)
        make_release "$release" "$id" "$python"
    fi
    make_users
    check_policy "$release"
    install_drop_ins
    install_tools "${policy:-$policy_in_force}"
    mkdir -p "${command_link%/*}"
    ln --symbolic --force --no-dereference "$home/current/bin/ebs-agent" "$command_link"
    previous=$(release_in_force || true)
    if is_settled "$release"; then
        say "release $release is in force already"
        load_policy
        systemctl daemon-reload
    else
        take_over "$release" "$policy" "$hooks"
        [[ $previous == "$release" ]] || remove_old_releases "$release" "$previous"
    fi
    systemctl --no-block start ebs-volumes.target
}

main "$@"
