"""The benchmark: compares pykcm with the C servers and with bare limits; `scripts/bench` runs it."""
