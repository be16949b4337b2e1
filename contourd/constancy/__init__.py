"""The morning constancy check: the reference patient through the node's own port, compared with a signed baseline."""
