"""What goes over kubelet's sockets, as bytes: two .proto files of our own and the code generated from them.

The names, numbers and types are those of the Container Storage Interface 1.12 and of kubelet's plugin
registration, v1, as far as the agent serves them. ``make proto`` generates the code anew; protobuf is
imported with it, so only ``agent.csi.service`` imports this, and that only while the face is on.
"""
