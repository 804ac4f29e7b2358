"""Spans of calls, pairs and stages, for a collector of OpenTelemetry; only this room knows the library.

Nobody imports its modules where `otlp_endpoint` is empty, so that the library is not loaded then.
"""
