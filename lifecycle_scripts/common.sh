# shellcheck shell=bash disable=SC2034
# What the lifecycle scripts share: names, words, the lock, and which release is in force. Sourced, never run.
#
# Every step may be the last one: power can go, HyperPod can kill the script. So a file appears whole or not at
# all, a release counts only once its stamp is written, and everything may be done again.

umask 022
PATH=${EBS_AGENT_SEARCH_PATH:-/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin}
export PATH LC_ALL=C.UTF-8

# All paths move below this, for tests.
readonly dest=${EBS_AGENT_DESTDIR:-}
readonly home=$dest/opt/ebs-agent
readonly etc=$dest/etc/ebs-agent
readonly units=$dest/etc/systemd/system
# Not in /run/lock: everybody may write there, so anybody could hold the lock, or put a link in its place.
readonly lock_directory=$dest/run/ebs-agent-install
readonly command_link=$dest/usr/local/bin/ebs-agent

# Written last, with the checksum of the bundle it was made from.
readonly stamp=.complete
# The release that was in force before one that is not known to work yet; gone when that is known.
readonly unproven=$home/.unproven
readonly policy_in_force=$etc/policy.yaml
# The policy that was in force before one that is not known to work yet; gone when that is known.
readonly policy_before=$home/.policy-before
# The hooks that were replaced by some that are not known to work yet, and in .added the names of those that are new;
# gone when that is known.
readonly hooks_before=$home/.hooks-before
# In a release's directory: the policy that was in force with it last, for going back to it by hand.
readonly last_policy=share/ebs-agent/policy.yaml

readonly boot_units=(ebs-agent.service ebs-volumes-ready.service ebs-volumes.target)
readonly all_units=("${boot_units[@]}" ebs-volumes-late.service ebs-agent-{cloud,hook,listen,metadata,mqtt,web}.socket)
# Of which there are instances, each with a number of its own while it runs.
readonly templates=(ebs-agent-{cloud,hook,listen,metadata,mqtt,web}@.service)
readonly drop_in=50-ebs-volumes.conf
is_changed= # by put_file

say() { printf '%s %s: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${0##*/}" "$*"; }
warn() { say "warning: $*" >&2; }
fail() {
    say "error: $*" >&2
    exit 1
}

need_root() {
    [[ -n $dest ]] || ((EUID == 0)) || fail "run this as root"
}

take_lock() { # whoever runs at the same time waits; the lock goes with the process that holds it
    local lock_file=$lock_directory/lock
    mkdir -p "${lock_directory%/*}"
    mkdir -m 0700 "$lock_directory" 2>/dev/null || true
    [[ -d $lock_directory && -O $lock_directory && ! -L $lock_directory && ! -L $lock_file ]] ||
        fail "$lock_directory is not a directory of root's own: look at it and remove it"
    exec {lock_fd}<>"$lock_file"
    if ! flock --nonblock "$lock_fd"; then
        say "another installation is under way: waiting for it"
        flock --timeout "${EBS_AGENT_LOCK_S:-900}" "$lock_fd" || fail "another installation does not end"
    fi
}

# retry TIMES COMMAND...: tries again after 2, 4, 6… seconds.
retry() {
    local times=$1 attempt
    shift
    for ((attempt = 1; ; attempt++)); do
        "$@" && return
        ((attempt < times)) || return 1
        say "attempt $attempt of $times failed: $1"
        sleep "$((attempt * ${EBS_AGENT_RETRY_S:-2}))"
    done
}

# put_file SOURCE TARGET MODE: the target is the old file or the new one at every moment, and stays as it is when
# nothing changed. Sets is_changed when something did.
put_file() {
    local new=$2.new.$$
    cmp --silent "$1" "$2" && return
    if ! { mkdir -p "${2%/*}" && install --mode="$3" "$1" "$new" && sync "$new" &&
        mv --no-target-directory "$new" "$2"; }; then
        fail "$2 cannot be written"
    fi
    is_changed=1
}

release_in_force() { # its name, nothing when there is none
    local name
    name=$(readlink "$home/current") && [[ -e $home/$name/$stamp ]] && printf '%s\n' "$name"
}

put_in_force() {
    local new=$home/.current.new
    ln --symbolic --force --no-dereference "$1" "$new" &&
        mv --no-target-directory "$new" "$home/current" && sync "$home"
}

install_units() { # of a release: its own units and no others, since they belong to its version
    local own=$home/$1/share/ebs-agent/systemd unit
    for unit in "$own"/ebs-*; do
        put_file "$unit" "$units/${unit##*/}" 0644
    done
    for unit in "${all_units[@]}"; do
        [[ ! -e $own/$unit && -e $units/$unit ]] || continue
        systemctl --quiet disable --now "$unit" || warn "$unit is not of release $1, and cannot be stopped"
        rm -f "$units/$unit"
        is_changed=1
    done
    for unit in "${templates[@]}"; do
        [[ ! -e $own/$unit && -e $units/$unit ]] || continue
        rm -f "$units/$unit"
        is_changed=1
    done
}

# ask_agent EXPRESSION [WORD]: a Python expression about `node`, the agent's status, its volumes by name and by ID, and
# `word`; fails where none answers.
ask_agent() {
    "$home/current/bin/ebs-agent" status --json 2>/dev/null |
        "$home/current/bin/python" -I -c "
import json, sys
node, word = json.load(sys.stdin), sys.argv[1]
by_name, by_id = ({v[key]: v for v in node['volumes']} for key in ('name', 'volume_id'))
print($1)" "${2:-}" 2>/dev/null
}

# usable_volumes: prints which volume each entry of the policy has in use. Kubelet's have their ID for a name, which no
# entry has: they come and go with pods, also while one agent takes the place of another.
usable_volumes() {
    ask_agent "json.dumps({v['name']: v['volume_id'] for v in node['volumes']
        if v['name'] and v['volume_id'] not in (None, v['name']) and v['condition'] in ('Ready', 'Degraded')})"
}

# still_wanted USABLE: prints by what names the agent that runs now knows those of them that are wanted. What the policy
# has let go is Unmanaged, or is not shown. An entry that is shown without its volume, or a volume that is shown with
# anything in its way, is not let go: the new agent may be to blame.
still_wanted() {
    ask_agent "' '.join(filter(None, (
        name if name in by_name and by_name[name]['volume_id'] in (None, volume)
        else by_id[volume]['name'] or volume if volume in by_id and by_id[volume]['condition'] != 'Unmanaged'
        else None
        for name, volume in json.loads(word).items())))" "$1"
}

# is_healthy RELEASE USABLE: the agent answers, is of that release, and has what was usable before and is wanted still.
is_healthy() {
    local version names wanted asked=
    version=$(ask_agent "node['version']") || {
        warn "the agent of release $1 does not answer"
        return 1
    }
    [[ $version == "$(<"$home/$1/share/ebs-agent/VERSION")" ]] || {
        warn "the agent that answers is $version, not that of release $1"
        return 1
    }
    [[ -n $2 ]] || return 0
    while :; do # the policy may let go of some while they are waited for, as when it is learned which node this is
        wanted=$(still_wanted "$2") || {
            warn "the agent of release $1 does not answer any more"
            return 1
        }
        [[ -n $wanted ]] || return 0
        [[ $wanted != "$asked" ]] || break
        asked=$wanted
        read -ra names <<<"$wanted"
        ! "$home/current/bin/ebs-agent" wait "${names[@]}" --timeout "${EBS_AGENT_HEALTH_S:-120}" || return 0
    done
    warn "volumes that were usable before are not: $wanted"
    return 1
}

# replace_policy FILE: the one before is kept until the new one is known to work.
replace_policy() {
    [[ -n $1 ]] || return 0
    ! cmp --silent "$1" "$policy_in_force" || return 0
    if [[ -e $policy_in_force && ! -e $policy_before ]]; then
        put_file "$policy_in_force" "$policy_before" 0644
    fi
    put_file "$1" "$policy_in_force" 0644
}

restore_policy() { # fails where no other was in force
    [[ -e $policy_before ]] && ! cmp --silent "$policy_before" "$policy_in_force" || return 1
    put_file "$policy_before" "$policy_in_force" 0644
    say "the policy before is in force again"
}

# replace_hooks DIR: those before are kept until the new ones are known to work. The agent runs hooks as root, so they
# become root's.
replace_hooks() {
    local hook name
    mkdir -p "$etc/hooks.d"
    [[ -n $1 ]] || return 0
    for hook in "$1"/*; do
        name=${hook##*/}
        [[ -f $hook ]] || continue
        ! cmp --silent "$hook" "$etc/hooks.d/$name" || continue
        if [[ -e $hooks_before/$name || -e $hooks_before/.added/$name ]]; then
            : # by a run that was cut off: what was before that one counts
        elif [[ -e $etc/hooks.d/$name ]]; then
            put_file "$etc/hooks.d/$name" "$hooks_before/$name" "$(stat --format=%a "$etc/hooks.d/$name")"
        else
            put_file /dev/null "$hooks_before/.added/$name" 0644
        fi
        put_file "$hook" "$etc/hooks.d/$name" 0755
    done
}

restore_hooks() { # those that somebody else has put there meanwhile stay
    local hook
    [[ -e $hooks_before ]] || return 0
    for hook in "$hooks_before"/*; do
        [[ ! -f $hook ]] || put_file "$hook" "$etc/hooks.d/${hook##*/}" "$(stat --format=%a "$hook")"
    done
    for hook in "$hooks_before"/.added/*; do
        [[ ! -f $hook ]] || rm -f "$etc/hooks.d/${hook##*/}"
    done
    say "the hooks before are in place again"
}

forget_before() { # what is in force is known to work, or was put back
    rm -f "$policy_before"
    rm -rf "$hooks_before"
}

# start_release RELEASE [POLICY] [HOOKS]: puts them in force and has it run; fails when it does not say that it is
# ready. First the release: it reads the policy before as well, while the release before may not read the new one.
start_release() {
    local unit enabled=()
    install_units "$1"
    for unit in "${boot_units[@]}"; do
        [[ ! -e $units/$unit ]] || enabled+=("$unit")
    done
    systemctl reset-failed ebs-agent.service 2>/dev/null || true
    put_in_force "$1" && replace_policy "${2:-}" && replace_hooks "${3:-}" && systemctl daemon-reload && systemctl --quiet enable "${enabled[@]}" &&
        systemctl restart ebs-agent.service
}

# keep_policy RELEASE: beside the release, the policy that it has worked with up to now.
keep_policy() {
    local worked_with=$policy_before
    [[ -e $worked_with ]] || worked_with=$policy_in_force
    [[ -n $1 && -e $home/$1/$stamp && -e $worked_with ]] || return 0
    put_file "$worked_with" "$home/$1/$last_policy" 0644
}

# take_over RELEASE [POLICY] [HOOKS]: with what was usable before and is wanted still usable, or back to release, policy
# and hooks before, with exit status 3.
take_over() {
    local previous usable
    previous=$(cat "$unproven" 2>/dev/null || release_in_force || true)
    [[ $previous != "$1" ]] || previous=
    keep_policy "$previous"
    usable=$(usable_volumes || true)
    printf '%s\n' "$previous" >"$unproven.new"
    sync "$unproven.new"
    mv "$unproven.new" "$unproven"
    if start_release "$1" "${2:-}" "${3:-}" && is_healthy "$1" "$usable"; then
        rm -f "$unproven"
        forget_before
        say "release $1 is in force"
        return
    fi
    journalctl --no-pager --lines=30 --unit=ebs-agent.service 2>/dev/null || true
    if [[ -z $previous || ! -e $home/$previous/$stamp ]]; then
        # The release may be the one from before, and the policy alone the new one.
        if restore_policy; then previous=$1; fi
    else
        restore_policy || true
    fi
    if [[ -z $previous || ! -e $home/$previous/$stamp ]]; then
        rm -f "$unproven"
        forget_before
        fail "release $1 does not become ready, and there is none to go back to"
    fi
    warn "release $1 does not become ready: going back to $previous"
    restore_hooks
    start_release "$previous" || fail "release $previous does not become ready either"
    rm -f "$unproven"
    forget_before
    is_healthy "$previous" "$usable" || fail "release $previous is not what it was"
    say "release $previous is in force again"
    exit 3
}
