"""Where the running system has its own filesystems: what is mounted there is its own, and no volume is.

Both halves of that are one list, so that no policy can name a path by which a volume would be taken for the
system's.
"""

from __future__ import annotations

INSTANCE_STORE = "/opt/dlami/nvme"
"""Where images of AWS's mount the disks that an instance has of its own."""
SAGEMAKER = "/opt/sagemaker"
"""What is mounted there, or in it, HyperPod has attached for itself."""
SYSTEM_MOUNTS = ("/", "/boot", "/boot/efi", "/efi", "/usr", "/var", "/etc", "/nix", SAGEMAKER)
"""What is mounted at one of these is the system's, whoever mounted it."""
SHARED_PLACES = frozenset({"/", "/var"})
"""Those in which there are places for other things, too."""
