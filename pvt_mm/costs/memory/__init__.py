"""How much memory training takes on a GPU, worked out without one."""

from pvt_mm.costs.memory.activations import Activations, count_activations
from pvt_mm.costs.memory.estimate import Estimate, estimate

__all__ = ["Activations", "Estimate", "count_activations", "estimate"]
