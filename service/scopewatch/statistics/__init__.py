"""What scores are worth: ranking, bounds, rank tests, folds."""
