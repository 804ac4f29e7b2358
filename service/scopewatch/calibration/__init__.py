"""Offline: labelled pairs in, evidence for thresholds out."""
