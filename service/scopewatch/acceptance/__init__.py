"""The acceptance check: does an SAE give its publisher's numbers on a reader, before anything is served with it?"""
