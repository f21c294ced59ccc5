#!/usr/bin/env bash
# Installs ebs-agent on an instance from its folder in S3: install-from-s3.sh s3://BUCKET/ebs-agent
#
# Run as root, by user data or as ParallelCluster's OnNodeConfigured; it may be run again at any time. It needs the
# AWS command line and a role that may read the folder, and fails where a volume that the policy requires is not ready.
set -euo pipefail

source=${1:?the folder in S3, as in s3://BUCKET/ebs-agent}
folder=/opt/ebs-agent-folder

for attempt in 1 2 3 4 5; do
    # Without --exact-timestamps a file that was changed and is as long as before is not fetched again.
    aws s3 sync --only-show-errors --exact-timestamps "$source" "$folder" && break
    ((attempt < 5)) || exit 1
    sleep "$((attempt * ${EBS_AGENT_RETRY_S:-2}))"
done
bash "$folder/on_create.sh"
