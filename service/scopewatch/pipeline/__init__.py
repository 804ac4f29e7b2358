"""One request's journey: tokenise, cache, batch, score. asyncio and numpy; no torch, no gRPC."""
