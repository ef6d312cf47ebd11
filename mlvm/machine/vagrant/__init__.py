"""Machines that Vagrant runs: the same verbs, kernels and notebooks, on whatever hypervisor it knows.

The agent is brought into the box by ssh after each boot; its sockets, and the ports of kernels, come back through the
same connection.
"""
