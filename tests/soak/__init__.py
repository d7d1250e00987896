"""Faults under load, on a cluster of several Ray nodes on this machine: `python -m tests.soak`."""
