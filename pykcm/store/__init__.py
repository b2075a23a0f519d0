"""Where secrets are kept: a tree of containers, one for each UID, behind one interface."""
