"""Pages over HTTP: the metrics, for Prometheus, and recent flags, for whoever is on call; only this room knows h11."""
