"""Checkpoints under the names of other code bases."""
