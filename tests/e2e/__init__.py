"""End-to-end tests: a real KDC, real clients, and the daemon as a separate process."""
