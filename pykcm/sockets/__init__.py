"""Listening sockets, bound here or passed by systemd, their connections, and the event loop."""
