"""An independent model of collections, and a driver that compares a daemon with it."""
