"""What one machine can do for one watchlist, measured; and how many of them a load needs."""
