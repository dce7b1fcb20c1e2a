"""A project of its own that takes its backbone from pvt_mm, by name only."""
