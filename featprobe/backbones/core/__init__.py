"""What all backbone families share, so that a family's own file holds only what is special about it."""
