"""Real Kubernetes: its control plane on this machine, its kubelet beside the installed agent in a guest."""
