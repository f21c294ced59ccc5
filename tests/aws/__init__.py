"""An AWS on loopback: moto's server, with what moto lacks for EBS on HyperPod, and with faults on demand."""

from __future__ import annotations

import os

# Thirteen hundred public images in each new cloud, 4 MB that moto never lets go of, and none is asked for.
os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
