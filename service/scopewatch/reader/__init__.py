"""The reader model: from its files to a module that reads packed rows of tokens."""
