"""What both ends of a call agree on beside the stubs: how an error and how an explanation go over the wire."""
