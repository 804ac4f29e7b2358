"""The only place that runs torch: the reader model, its hookpoints, SAE encoders, the batch runner."""
