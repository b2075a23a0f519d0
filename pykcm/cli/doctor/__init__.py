"""pykcmctl doctor: checks for common problems, each with the commands that solve it."""
