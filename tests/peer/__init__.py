"""Who asks, and what that identity may use."""
