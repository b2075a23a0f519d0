"""Peers: their identity, read from the connected socket, and every access decision."""
