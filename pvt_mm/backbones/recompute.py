"""A linear layer over activations that are computed anew in the backward pass, band by band."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pvt_mm.backbones.bands import Band, cut_in_bands
from pvt_mm.backbones.linear import linear

__all__ = ["project_activation"]

# Shape legend: B batch, N = H*W tokens, C channels, E hidden channels; n tokens that a band reads,
# m tokens that it makes.

Activate = Callable[..., Tensor]


def project_activation(
    activate: Activate,
    hidden: Tensor,
    hw: tuple[int, int],
    weight: Tensor,
    bias: Tensor,
    params: tuple[Tensor, ...] = (),
    halo: int = 0,
) -> Tensor:
    """Compute ``linear(activate(hidden), weight, bias)`` and keep ``hidden`` only.

    The activations are as wide as ``hidden``. Here they, and the gradients with respect to them,
    exist for one band at a time, which saves memory and, on CPUs, the time to get it.

    Args:
        activate: Called with ``(1, n, E)`` tokens, their band and ``params``; returns ``(1, m, E)``
            without changing what it is given. It must be deterministic.
        hidden: ``(B, N, E)``.
        hw: ``(H, W)`` in tokens.
        weight: ``(C, E)``.
        bias: ``(C,)``.
        params: The parameters that ``activate`` uses.
        halo: Rows that ``activate`` reads above and below each row.

    Returns:
        ``(B, N, C)``; its gradient reaches ``hidden``, ``weight``, ``bias`` and ``params``.

    Reference: Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
    """
    if not hasattr(torch.amp, "custom_fwd"):
        return linear(activate(hidden, Band.whole(hw), *params), weight, bias)
    return _ProjectActivation.apply(hidden, weight, bias, activate, hw, halo, *params)


def _in_autocast(name: str) -> Callable:
    """Decorate with ``torch.amp``'s ``name``, which keeps autocast on in the backward pass."""
    decorator = getattr(torch.amp, name, None)  # since torch 2.4
    return decorator(device_type="cpu") if decorator else lambda function: function


class _ProjectActivation(torch.autograd.Function):
    @staticmethod
    @_in_autocast("custom_fwd")
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        activate: Activate,
        hw: tuple[int, int],
        halo: int,
        *params: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, *params)
        ctx.activate, ctx.hw, ctx.halo = activate, hw, halo
        out = hidden.new_empty(*hidden.shape[:2], weight.shape[0])
        for band in cut_in_bands(hidden, hw, hidden.shape[2], halo):
            activation = activate(band.read(hidden), band, *params)
            band.made(out).copy_(linear(activation, weight, bias))
        return out

    @staticmethod
    @_in_autocast("custom_bwd")
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple:
        hidden, weight, *params = ctx.saved_tensors
        params = [param.detach().requires_grad_() for param in params]
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        grad_params = [torch.zeros_like(param) for param in params]
        transposed = weight.t().contiguous()
        for band in cut_in_bands(hidden, ctx.hw, hidden.shape[2], ctx.halo):
            grad = band.made(grad_out)  # (1, m, C)
            with torch.enable_grad():
                read = band.read(hidden).detach().requires_grad_()
                activation = ctx.activate(read, band, *params)  # (1, m, E)
            grad_weight += grad[0].t() @ activation[0].detach()
            grads = torch.autograd.grad(
                activation, (read, *params), linear(grad, transposed).to(activation.dtype)
            )
            _add_to_rows(grad_hidden, grads[0], band, 2 * ctx.halo)
            for total, part in zip(grad_params, grads[1:], strict=True):
                total += part
        grad_bias = grad_out.sum((0, 1)).to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, *grad_params


def _add_to_rows(total: Tensor, part: Tensor, band: Band, overlap: int) -> None:
    """Put a band's gradient in its place; the rows it shares with the band above are summed."""
    shared = overlap * band.width if band.above else 0
    place = band.read(total)
    place[:, :shared] += part[:, :shared]
    place[:, shared:] = part[:, shared:]
