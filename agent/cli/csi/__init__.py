"""The commands about the volumes of pods that are asked of Kubernetes, and of no agent."""
