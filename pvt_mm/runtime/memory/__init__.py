"""How much memory training takes on a GPU, worked out without one."""

from .activations import Activations, count_activations
from .estimate import Estimate, estimate

__all__ = ["Activations", "Estimate", "count_activations", "estimate"]
