"""What every tool does before it imports the package; importing this module does it."""

import _environment  # noqa: F401, I001  # first: it finds the package and sets up the threads

from pvt_mm.allocator import tune_allocator

tune_allocator()
