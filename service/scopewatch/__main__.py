"""`python -m scopewatch` and the console script."""

from scopewatch.cli import main

if __name__ == "__main__":
    main()
