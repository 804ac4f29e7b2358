"""The life of a watchlist: compared with another, replayed over stored pairs, run over files."""
