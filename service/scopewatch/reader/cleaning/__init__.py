"""Reading a text with nothing hidden by odd characters."""
