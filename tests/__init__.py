"""The tests, laid out as the package is; those that need a KDC and real clients are in e2e."""
