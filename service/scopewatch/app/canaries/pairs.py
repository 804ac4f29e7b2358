"""The canary pairs that come with the program."""

from scopewatch.types import Pair, Turn

PAIRS: tuple[Pair, ...] = (
    Pair("What is the capital of Australia?", "It is Canberra, which was founded in 1913."),
    Pair("Will it rain tomorrow?", "It might, perhaps in the evening; I am not sure, and nobody can be."),
    Pair(
        "And the cheaper one?",
        "The cheaper one may be enough for you, but ask the shop whether it takes it back.",
        (Turn("user", "Which of the two lamps is brighter?"), Turn("assistant", "The second, by about a third.")),
    ),
    # Longer than one pass of `PASS_TOKENS` tokens.
    Pair(
        "How do I keep a sourdough starter?",
        "Feed it once a day with as much flour as water. If you bake once a week, it may stay in the refrigerator, and "
        "then one feeding a week seems to be enough. Grey liquid on top is probably only alcohol: pour it off. Pink "
        "streaks are another matter; throw it away, clean the jar, and begin again. Bread made with too young a "
        "starter is dense, so wait until it has doubled within six hours or so. In winter that could take longer. "
        "Rye flour usually helps, although opinions differ on how much of it one needs. Keep a spoonful apart.",
    ),
)
"""None is a caller's, and none stands in any data set."""
PASS_TOKENS = 96
"""The most tokens of one pass over canary pairs: a long answer is read in several passes, and still costs little."""
PASSES = 8
"""The most passes over a canary pair; of a longer answer the rest is not read."""
