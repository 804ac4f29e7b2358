"""How much of a detector is left when what it should not depend on is changed: its held-out pairs, read once more."""
