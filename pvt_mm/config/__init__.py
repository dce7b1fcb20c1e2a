"""Configs: read with the command line's changes and checked, and the recipes they are made of."""
