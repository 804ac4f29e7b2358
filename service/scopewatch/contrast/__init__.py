"""Discovery: which features differ between two corpora."""
