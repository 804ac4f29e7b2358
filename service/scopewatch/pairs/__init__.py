"""Labelled pairs, and what the reader and the online scorer make of them."""
