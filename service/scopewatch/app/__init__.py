"""Builds every part once, serves, and closes what it built."""
