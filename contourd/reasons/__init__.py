"""Why something does not go on: codes for the program, and the catalogue that says each to people."""

__all__ = ["catalogue", "codes"]
