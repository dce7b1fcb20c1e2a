"""The one table of architectures: what the backbones, the weights' aliases and the docs read."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ARCHS", "Arch"]

RELEASE_URL = "https://github.com/whai362/PVT/releases/download/v2/"


@dataclass(frozen=True)
class Arch:
    """One Pyramid Vision Transformer, as released by its authors.

    Args:
        name: Name of the release, and of the weights' alias ``pvt://NAME``.
        version: 1 (ICCV 2021) or 2 (CVMJ 2022).
        embed_dims: Channels ``C`` of each stage.
        depths: Blocks of each stage.
        params_m: Parameters of the whole classifier, in millions.
        top1: ImageNet-1k top-1 accuracy that the authors report, in percent.
        num_heads: Attention heads of each stage.
        mlp_ratios: Hidden channels of each stage's MLP, as a multiple of ``C``.
        sr_ratios: Side of the spatial-reduction window of each stage, in tokens.
        linear_sra: Whether the attention is linear SRA.
        sha256: First digits of the release file's SHA-256, where they are known: a download that
            has others is refused.
    """

    name: str
    version: int
    embed_dims: tuple[int, ...]
    depths: tuple[int, ...]
    params_m: float = 0.0
    top1: float = 0.0
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[float, ...] = (8, 8, 4, 4)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    linear_sra: bool = False
    sha256: str = ""

    @property
    def config(self) -> dict[str, str]:
        """The backbone in a config, as ``{"type": "pvt_mm.PVTv2", "arch": "b2"}``."""
        kind, prefix = ("PVT", "pvt_") if self.version == 1 else ("PVTv2", "pvt_v2_")
        return {"type": f"pvt_mm.{kind}", "arch": self.name.removeprefix(prefix)}

    @property
    def filename(self) -> str:
        """File name of the official release."""
        return f"{self.name}.pth"

    @property
    def url(self) -> str:
        """Address of the official release."""
        return RELEASE_URL + self.filename


_WIDE = (64, 128, 320, 512)
_NARROW = (32, 64, 160, 256)

ARCHS: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        #    name           v  widths   depths         params  top-1
        Arch("pvt_tiny", 1, _WIDE, (2, 2, 2, 2), 13.2, 75.1),
        Arch("pvt_small", 1, _WIDE, (3, 4, 6, 3), 24.5, 79.8),
        Arch("pvt_medium", 1, _WIDE, (3, 4, 18, 3), 44.2, 81.2),
        Arch("pvt_large", 1, _WIDE, (3, 8, 27, 3), 61.4, 81.7),
        Arch("pvt_v2_b0", 2, _NARROW, (2, 2, 2, 2), 3.7, 70.5),
        Arch("pvt_v2_b1", 2, _WIDE, (2, 2, 2, 2), 14.0, 78.7),
        Arch("pvt_v2_b2", 2, _WIDE, (3, 4, 6, 3), 25.4, 82.0),
        Arch("pvt_v2_b2_li", 2, _WIDE, (3, 4, 6, 3), 22.6, 82.1, linear_sra=True),
        Arch("pvt_v2_b3", 2, _WIDE, (3, 4, 18, 3), 45.2, 83.1),
        Arch("pvt_v2_b4", 2, _WIDE, (3, 8, 27, 3), 62.6, 83.6),
        Arch("pvt_v2_b5", 2, _WIDE, (3, 6, 40, 3), 82.0, 83.8, mlp_ratios=(4, 4, 4, 4)),
    )
}
