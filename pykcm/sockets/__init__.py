"""Unix sockets: bound here or passed by systemd, their connections, the event loop, and connecting to one."""
