"""What the environment may set. Read once, on import: tests run with the agent's variables removed."""

from __future__ import annotations

import os
from pathlib import Path

# Where images are kept between runs.
CACHE = Path(os.environ.get("EBS_AGENT_CACHE") or Path.home() / ".cache" / "ebs-agent").absolute()
# The Debian mirror to build the image from; without one mmdebstrap's own choice, with security updates.
DEBIAN_MIRROR = os.environ.get("EBS_AGENT_DEBIAN_MIRROR")
# `kvm` or `tcg`, in place of a trial.
ACCELERATOR = os.environ.get("EBS_AGENT_ACCEL")
# The name of a guest left running by hand that the shared fixture uses in place of booting one.
SHARED_GUEST = os.environ.get("EBS_AGENT_GUEST")
