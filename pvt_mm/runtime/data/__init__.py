"""Data sets before and during a run: what is checked, what is left out, the demo's data."""
