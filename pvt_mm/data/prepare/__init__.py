"""Labelled images of many programs, written as one data set that the configs read."""

from pvt_mm.data.prepare.prepare import MARKER, Prepared, prepare_data

__all__ = ["MARKER", "Prepared", "prepare_data"]
