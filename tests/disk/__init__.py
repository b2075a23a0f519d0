"""Disks that fail on demand, and the states of a disk after a loss of power."""
