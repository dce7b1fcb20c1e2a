"""Trainings that go on where they were: whole files, positions, random states, signals."""
