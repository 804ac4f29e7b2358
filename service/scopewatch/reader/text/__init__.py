"""From a pair of texts to the tokens that a reader reads: templates, tokenizers, places, windows. Needs no torch."""
