"""The Kubernetes face: kubelet asks for volumes by CSI. Nothing here mounts, formats or grows anything."""
