"""pykcmctl."""
