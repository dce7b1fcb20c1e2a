"""Let torchvision import beside a torch that its compiled part was not built for.

The peers' environment keeps a copy of this module and imports it when Python starts. torchvision's
published build wants torch's CUDA build; beside the CPU build its library does not load, and the
import ends at two operators that only the library declares. They are declared here instead, without
an implementation, so that timm and transformers import. Where the library loads nothing is done.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from pathlib import Path

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class BeforeTorchvision(MetaPathFinder):
    """Finds nothing; declares the operators when somebody first looks for torchvision."""

    library = None
    seen = False

    def find_spec(self, fullname, path=None, target=None):
        """Leave the finding to the finders after this one."""
        if fullname == "torchvision" and not self.seen:
            self.seen = True
            self.declare()
        return None

    def declare(self):
        """Declare the operators, unless torchvision's own library can."""
        spec = PathFinder.find_spec("torchvision")
        if spec is None:
            return
        import torch

        compiled = next(Path(spec.origin).parent.glob("_C*.so"), None)
        try:
            if compiled is not None:
                torch.ops.load_library(str(compiled))
                return
        except OSError:  # built for another torch
            pass
        # Kept, because the operators go with the object that declared them.
        BeforeTorchvision.library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in SCHEMAS:
            self.library.define(schema)


if not any(isinstance(finder, BeforeTorchvision) for finder in sys.meta_path):
    sys.meta_path.insert(0, BeforeTorchvision())
