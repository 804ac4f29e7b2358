"""Watches what happens inside a language model: SAE features of LLM outputs, scored, cached and exported."""

__version__ = "0.1.0"
