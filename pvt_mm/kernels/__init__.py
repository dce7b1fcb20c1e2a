"""Fast ways to compute what :mod:`pvt_mm.backbones` computes plainly."""
