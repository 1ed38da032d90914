"""Acting: the tabletop suite, simulator processes, demonstrations."""
