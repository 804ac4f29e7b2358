"""A reader's layers in few kernels: operators, the layers made of them, and the check before they run."""
