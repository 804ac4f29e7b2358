"""Whether an SAE gives its publisher's numbers on a reader: offline, before anything is served."""
