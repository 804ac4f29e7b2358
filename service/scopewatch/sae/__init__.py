"""Reading released SAEs into one in-memory form; numpy only."""
