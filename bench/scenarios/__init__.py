"""What `make chaos` does to a server: a scenario is a function that takes a scale and gives cases, held to bounds."""

import sys
from pathlib import Path

# Where the tests' servers in processes of their own are, and a proxy that breaks connections.
sys.path.append(str(Path(__file__).parents[2] / "tests"))
