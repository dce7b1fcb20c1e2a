"""The project's own model parts: here a neck in front of mmdet's."""

from mmdet.models import FPN
from torch import Tensor, nn

from .registry import MODELS

__all__ = ["NormFPN"]


@MODELS.register_module()
class NormFPN(FPN):
    """An FPN that normalises the backbone's maps first."""

    def __init__(self, in_channels: list[int], **kwargs) -> None:
        super().__init__(in_channels, **kwargs)
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for channels in in_channels)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Normalise each map, then build the pyramid."""
        return super().forward(tuple(norm(x) for norm, x in zip(self.norms, maps, strict=True)))
