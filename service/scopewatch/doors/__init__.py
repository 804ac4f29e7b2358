"""How the outside comes in: each door validates what a caller sends and asks the spine."""
