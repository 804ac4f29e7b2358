"""Readers that are known by name: where each comes from, its making into a reader directory, and that directory."""
