"""What is watched: watchlist files, their indicators, cards and labels."""
