"""The door for Prometheus: the metrics page over HTTP; only this room knows h11."""
