"""The KCM socket: connections, their limits and deadlines, operations, statistics."""
