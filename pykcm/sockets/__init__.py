"""Listening sockets: bound here or passed by systemd, and the connections that they accept."""
