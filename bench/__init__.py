"""Measures pykcm beside the C servers and bare limits; `scripts/bench` runs it."""
