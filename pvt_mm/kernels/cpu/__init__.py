"""How large maps are computed fast on CPUs."""
