"""The unprivileged process that speaks to AWS, and the daemon's side of it. Only here is boto3."""
