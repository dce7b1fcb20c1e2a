"""The steps behind `make setup`; only the standard library is used here."""
