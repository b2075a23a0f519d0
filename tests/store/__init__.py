"""The stores, their key and folder, the tree of secrets and their JSON."""
