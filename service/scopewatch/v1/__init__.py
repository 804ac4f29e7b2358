"""Generated from protos/scopewatch/v1; see `make stubs`."""
