"""pykcmctl doctor: what goes wrong in practice, looked for, each with the way out."""
