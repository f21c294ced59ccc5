"""A kubelet for tests: what kubelet does with a plugin, as far as the plugin can see it."""
