"""One module per publisher's format: what its files mean in terms of `weights.Sae`."""
