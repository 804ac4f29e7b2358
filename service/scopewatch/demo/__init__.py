"""The bundled reader, its SAE and watchlist, and a tour of the service that uses them."""
