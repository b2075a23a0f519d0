"""Who asks: identity from a connected socket, and what that identity may use."""
