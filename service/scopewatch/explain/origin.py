"""How much of a pair was read, and what produced the numbers, as replies say it."""

import scopewatch
from scopewatch.explanation import CoverageExplained, ProvenanceExplained
from scopewatch.pipeline.compiled import CompiledWatchlist
from scopewatch.pipeline.watchlist_set import WatchlistSet
from scopewatch.verdicts import Judgement


def coverage_explained(judgement: Judgement) -> CoverageExplained:
    """How much of a pair was read."""
    coverage = judgement.coverage
    return CoverageExplained(
        tokens=coverage.tokens,
        prompt_tokens=coverage.prompt_tokens,
        response_tokens=coverage.response_tokens,
        history_tokens=coverage.history_tokens,
        truncated=coverage.truncated,
        windows=coverage.windows,
    )


def provenance_explained(
    judgement: Judgement, watchlist: CompiledWatchlist, watchlists: WatchlistSet
) -> ProvenanceExplained:
    """What produced the numbers of a judgement; of the SAEs that run, those that its watchlist names."""
    made_by, own = judgement.made_by, watchlist.source.saes
    return ProvenanceExplained(
        reader=made_by.reader,
        reader_revision=made_by.reader_revision,
        reader_digest=made_by.reader_digest,
        watchlist=made_by.watchlist,
        watchlist_digest=made_by.watchlist_digest,
        relation=made_by.relation.value,
        version=scopewatch.__version__,
        rendering_digest=judgement.rendering_digest,
        watchlists_version=watchlists.version,
        saes={sae.name: sae.digest for sae in watchlists.engine.saes if sae.name in own},
        batch_invariant=made_by.batch_invariant,
    )
