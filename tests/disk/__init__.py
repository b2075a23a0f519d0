"""Disks that fail when a test wants it, and what a loss of power leaves on one."""
