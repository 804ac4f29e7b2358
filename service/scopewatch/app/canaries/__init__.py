"""Canary pairs: fixed pairs whose scores show that what runs is what the files say, and computes as it did before."""
