"""The sockets that kubelet finds the agent at: where they are, how they come and stay, and who connects."""
