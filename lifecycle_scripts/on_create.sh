#!/usr/bin/env bash
# Installs ebs-agent on this node and waits for the volumes that its policy requires.
#
# HyperPod runs this as root, without arguments, when a node is created or replaced; it may be run again at any
# time. Beside it lie the bundles, policy.yaml and ebs-agent.conf. With lifecycle scripts of your own, run it from
# them: docs/install-slurm.md, docs/install-eks.md. It fails, and with it the node, only if the policy has a
# volume that is `required` and that volume cannot be used.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly dest=${EBS_AGENT_DESTDIR:-}
readonly log_directory=$dest/var/log/provision
readonly agent=$dest/opt/ebs-agent/current/bin/ebs-agent
readonly installed_policy=$dest/etc/ebs-agent/policy.yaml

say() { printf '%s %s: %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "${0##*/}" "$*"; }

start_log() { # where HyperPod's own scripts log, in the journal, and on the output that HyperPod collects
    mkdir -p "$log_directory"
    if command -v logger >/dev/null; then
        exec > >(tee --append "$log_directory/ebs-agent.log" >(logger --tag ebs-agent-install 2>/dev/null)) 2>&1
    else
        exec > >(tee --append "$log_directory/ebs-agent.log") 2>&1
    fi
}

read_settings() { # lines of NAME=value, all of them described in the file that comes with this script
    set -o allexport
    # shellcheck source=lifecycle_scripts/ebs-agent.conf
    [[ ! -e $here/ebs-agent.conf ]] || source "$here/ebs-agent.conf"
    EBS_AGENT_HOLD=${EBS_AGENT_HOLD:-} # left out there it names none, which is something else than not to say
    set +o allexport
}

fetch() { # fetch S3_URI FILE: needs the AWS command line, which HyperPod's images have
    local attempt
    for attempt in 1 2 3 4 5; do
        aws s3 cp --only-show-errors "$1" "$2" && return
        say "attempt $attempt of 5 to get $1 failed"
        sleep "$((attempt * ${EBS_AGENT_RETRY_S:-2}))"
    done
    return 1
}

# find_policy SCRATCH: prints the file to install, nothing when the one on the node is to stay.
find_policy() {
    if [[ -n ${EBS_AGENT_POLICY_S3:-} ]]; then
        if fetch "$EBS_AGENT_POLICY_S3" "$1/policy.yaml" >&2; then
            printf '%s\n' "$1/policy.yaml"
        elif [[ ! -e $installed_policy ]]; then
            return 1
        fi
    elif [[ -e $here/policy.yaml ]]; then
        printf '%s\n' "$here/policy.yaml"
    fi
}

# find_bundle SCRATCH: prints the newest bundle for this processor.
find_bundle() {
    local bundle
    if [[ -n ${EBS_AGENT_BUNDLE_S3:-} ]]; then
        bundle=$1/${EBS_AGENT_BUNDLE_S3##*/}
        fetch "$EBS_AGENT_BUNDLE_S3" "$bundle" >&2 || return
        [[ -n ${EBS_AGENT_BUNDLE_SHA256:-} ]] || fetch "$EBS_AGENT_BUNDLE_S3.sha256" "$bundle.sha256" >&2 || return
    else
        bundle=$(find "$here" -maxdepth 1 -name "ebs-agent-*-$(uname -m).tar.gz" | sort --version-sort | tail --lines=1)
    fi
    [[ -n $bundle ]] && printf '%s\n' "$bundle"
}

# is_as_made BUNDLE: it has a digest that ebs-agent.conf names or, where that names none, the one beside it. Of that
# file nothing but the digest counts: not which file it is said to be of.
is_as_made() {
    local made wanted=${EBS_AGENT_BUNDLE_SHA256:-} source=EBS_AGENT_BUNDLE_SHA256
    made=$(sha256sum <"$1") || return
    made=${made%% *}
    if [[ -z $wanted ]]; then
        source=$1.sha256
        read -r wanted _ <"$source" || true
    fi
    [[ " ${wanted,,} " == *[[:space:]]"$made"[[:space:]]* ]] && return
    say "error: $1 is damaged, or is another than $source says: its SHA-256 is $made"
    return 1
}

# install_agent SCRATCH POLICY: the bundle's own script does it.
install_agent() {
    local bundle arguments=()
    bundle=$(find_bundle "$1") || {
        say "error: there is no ebs-agent-VERSION-$(uname -m).tar.gz beside this script"
        return 1
    }
    say "bundle: $bundle"
    is_as_made "$bundle" || return
    mkdir "$1/bundle"
    tar --extract --gzip --file "$bundle" --directory "$1/bundle" --strip-components=1 --no-same-owner || return
    [[ -z $2 ]] || arguments+=(--policy "$2")
    [[ ! -d $here/hooks.d ]] || arguments+=(--hooks "$here/hooks.d")
    bash "$1/bundle/install.sh" "${arguments[@]}"
}

requires_volumes() { # requires_volumes POLICY: also true where it cannot be told
    local told
    [[ -n $1 ]] || return 0
    if told=$("$agent" check --json "$1" 2>/dev/null); then
        case $told in
            *'"required": []'*) return 1 ;;
            *'"required": ['*) return 0 ;;
        esac
    fi
    mentions_required "$1"
}

mentions_required() { # without an agent to ask: every word `required` outside comments counts that is not said false
    local text words denials
    text=$(sed 's/^[[:space:]]*#.*//' "$1")
    words=$(grep --only-matching --word-regexp required <<<"$text" | wc --lines)
    denials=$(grep --only-matching --word-regexp --extended-regexp \
        "required[\"']?[[:space:]]*:[[:space:]]+(false|False|FALSE)" <<<"$text" | wc --lines)
    ((words > denials))
}

# wait_for_volumes: without continuous provisioning a cluster is InService only when all its lifecycle scripts have
# ended, and HyperPod attaches nothing before. A volume that waits for nothing else is therefore not waited for.
wait_for_volumes() {
    local options=(--timeout "${EBS_AGENT_WAIT_S:-300}") status=2
    if [[ ${EBS_AGENT_WAIT_FOR_CLUSTER:-no} != yes ]]; then
        "$agent" wait "${options[@]}" --leave-creation
        status=$?
    fi
    ((status == 2)) || return "$status" # 2: an agent that is older than this script, and does not know the option
    "$agent" wait "${options[@]}"
}

is_eks() {
    [[ -d $dest/etc/eks || -e $dest/usr/bin/kubelet || -e $dest/usr/local/bin/kubelet ]]
}

# give_up POLICY MESSAGE: fails the node, or does not, as the policy has it.
give_up() {
    if ! requires_volumes "$1"; then
        say "warning: $2; the policy requires no volume, so the node goes on without"
        exit 0
    fi
    say "error: $2"
    if is_eks; then
        say "waiting ${EBS_AGENT_FAILURE_SLEEP_S:-60} s, so that logs are uploaded before the node is taken away"
        sync
        sleep "${EBS_AGENT_FAILURE_SLEEP_S:-60}"
    fi
    exit 1
}

main() { # read whole before it runs, so that nobody replaces it under way
    local policy in_force
    start_log
    say "begins on $(uname -n), $(uname -m)"
    read_settings
    scratch=$(mktemp --directory "${TMPDIR:-/var/tmp}/ebs-agent.XXXXXX") || exit 1
    trap 'rm -rf "$scratch"' EXIT
    trap 'exit 143' TERM
    trap 'exit 130' INT
    policy=$(find_policy "$scratch") || give_up "" "the policy $EBS_AGENT_POLICY_S3 cannot be had"
    in_force=${policy:-$installed_policy}
    [[ -e $in_force ]] || in_force=/dev/null

    install_agent "$scratch" "$policy"
    case $? in
        0) ;;
        3) say "warning: the new version did not become ready; the one before is in force" ;;
        *)
            [[ -x $agent ]] || give_up "$in_force" "the agent is not installed"
            say "warning: this installation failed; the one before it stays"
            ;;
    esac
    wait_for_volumes || give_up "$in_force" "required volumes are not ready"
    "$agent" status || true
    say "done"
}

main "$@"
