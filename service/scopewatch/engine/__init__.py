"""Runs the reader: forward passes, the encoders of what is watched, whole SAEs, and the thread it all runs on."""
