"""Scoring inside a Python program, a notebook for one: what `scopewatch.score` and `scopewatch.open` do."""

from scopewatch.embedded.kept import score
from scopewatch.embedded.results import Result, Results
from scopewatch.embedded.scorer import Scorer, open_scorer

__all__ = ["Result", "Results", "Scorer", "open_scorer", "score"]
