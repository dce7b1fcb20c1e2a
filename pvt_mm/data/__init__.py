"""Data sets before and during a run: what is checked, and what is left out."""
