"""What released SAEs are called, and where their files are."""
