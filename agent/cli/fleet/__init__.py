"""``ebs-agent fleet``: how the volumes of many nodes are, from a broker or Prometheus; asks no agent."""
