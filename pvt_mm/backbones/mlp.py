"""The MLPs of a block: two linear layers, and in v2 a depth-wise convolution between them."""

from __future__ import annotations

from torch import Tensor, nn

from pvt_mm.tokens import map_to_tokens, tokens_to_map

__all__ = ["ConvMlp", "DepthwiseConv", "Mlp"]

# Shape legend: B batch, (H, W) map in tokens, N = H*W tokens, C channels, E hidden channels.


class Mlp(nn.Module):
    """The MLP of PVT v1: two linear layers around a GELU.

    Args:
        embed_dims: Token channels ``C``.
        hidden_dims: Hidden channels ``E``.
        drop_rate: Dropout probability after each of the two.

    Shape:
        tokens: ``(B, N, C)``.
        hw: ``(H, W)`` in tokens, with ``H * W == N``.
        returns: ``(B, N, C)``, before the residual is added.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Mix the channels of each token of an ``hw`` map."""
        hidden = self.drop(self.act(self.fc1(tokens)))  # (B, N, E)
        return self.drop(self.fc2(hidden))


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of tokens, each channel by itself, under the name of the releases.

    Args:
        channels: Channels ``E``.

    Shape:
        tokens: ``(B, N, E)``.
        hw: ``(H, W)`` in tokens, with ``H * W == N``.
        returns: ``(B, N, E)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Convolve the tokens of an ``hw`` map."""
        return map_to_tokens(self.dwconv(tokens_to_map(tokens, hw)))


class ConvMlp(Mlp):
    """The MLP of PVT v2: a 3x3 depth-wise convolution between the first layer and the GELU.

    Its zero padding tells the tokens where they are, so v2 needs no position embedding.

    Args:
        embed_dims: Token channels ``C``.
        hidden_dims: Hidden channels ``E``.
        drop_rate: Dropout probability after the GELU and at the end.
        relu: Whether a ReLU follows the first layer, as in the models with linear SRA.

    Shape:
        tokens: ``(B, N, C)``.
        hw: ``(H, W)`` in tokens, with ``H * W == N``.
        returns: ``(B, N, C)``, before the residual is added.

    Reference: PVT v2, section 3.3, arXiv:2106.13797.
    """

    def __init__(
        self, embed_dims: int, hidden_dims: int, drop_rate: float = 0.0, relu: bool = False
    ) -> None:
        super().__init__(embed_dims, hidden_dims, drop_rate)
        self.relu = nn.ReLU() if relu else nn.Identity()
        self.dwconv = DepthwiseConv(hidden_dims)

    def forward(self, tokens: Tensor, hw: tuple[int, int]) -> Tensor:
        """Mix the channels of each token of an ``hw`` map, and its neighbours."""
        hidden = self.dwconv(self.relu(self.fc1(tokens)), hw)  # (B, N, E)
        hidden = self.drop(self.act(hidden))
        return self.drop(self.fc2(hidden))
