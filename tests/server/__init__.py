"""From bytes on a socket to a durable change and back."""
