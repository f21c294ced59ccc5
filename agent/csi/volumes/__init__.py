"""What is done for kubelet, by the engine that serves the policy. No protobuf, and no mount made here."""
