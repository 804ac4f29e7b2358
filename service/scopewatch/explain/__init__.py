"""Why a pair got its verdict: what is put together on the scores, the engine and the cards. No torch, no protobuf."""
