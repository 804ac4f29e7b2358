"""What is kept of who asked for what: a chained log of acts, and, if the operator asks for it, texts."""
