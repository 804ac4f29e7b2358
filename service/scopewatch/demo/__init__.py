"""The bundled reader, its SAE and watchlist, those of a known reader, and a tour of the service that uses them."""
