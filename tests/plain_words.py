"""Words that say nothing, of which tests make texts."""

WORDS = [
    "river",
    "garden",
    "copper",
    "window",
    "bread",
    "winter",
    "candle",
    "doctor",
    "market",
    "yellow",
    "engine",
    "silver",
    "meadow",
    "basket",
    "lantern",
]
