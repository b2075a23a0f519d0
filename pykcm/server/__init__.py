"""The daemon's engine: sockets, connections, the turn each UID gets, the operations, and the commit."""
