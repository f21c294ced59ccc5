# shellcheck shell=bash
# What the health check and the prolog share: whether this node's required volumes can be used, and draining it.

EBS_AGENT=${EBS_AGENT:-ebs-agent}
# slurmd gives what it runs no search path (slurm.schedmd.com/prolog_epilog.html). What bash has in its place,
# unexported, may end with the working directory, and leads to no Slurm of HyperPod's.
readonly slurm=${EBS_AGENT_SLURM:-/opt/slurm}
inherited=
[[ ${PATH@a} != *x* ]] || inherited=$PATH:
export PATH="$inherited$slurm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Reasons that begin so are ours, and nobody else's drain is ever lifted.
readonly MARK='ebs-agent:'

# Sets `problem` to one line, or to nothing where all is well. $1: seconds to wait for volumes.
find_problem() {
    local output status=0
    problem=
    output=$("$EBS_AGENT" wait --quiet --timeout "$1" 2>&1) || status=$?
    output=$(sed -e 's/^ebs-agent: //' -e 's/^Not ready after [0-9.]* s: //' -e 1q <<<"$output")
    case $status in
        0) return ;;
        3) problem=$output ;;
        4) problem='the agent does not answer' ;;
        *) problem="ebs-agent wait ended with $status: $output" ;;
    esac
    # Slurm takes one line, and shows the beginning of it.
    problem=$(tr -cd '[:print:]' <<<"$problem" | cut -c 1-200)
}

node_name() {
    printf '%s' "${SLURMD_NODENAME:-${SLURM_NODENAME:-$(hostname -s)}}"
}

need_scontrol() {
    type -P scontrol >/dev/null && return
    echo "$MARK there is no scontrol in $PATH: this node is neither drained nor let go" >&2
    return 1
}

drain() {
    need_scontrol || return
    scontrol update "NodeName=$(node_name)" State=DRAIN "Reason=$MARK $1"
}
