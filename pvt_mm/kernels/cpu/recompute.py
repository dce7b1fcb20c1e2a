"""What an MLP makes anew in the backward pass, rather than keep it: wide activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pvt_mm.kernels.cpu.bands import Band, cut_in_bands
from pvt_mm.kernels.cpu.linear import linear, linear_gradients, weight_gradient

__all__ = ["Layer", "linear_of_gelu", "mlp_in_bands"]

# Of smaller ones a second is not missed, and making it anew takes a hundredth or two of a step.
SMALL_BYTES = 8 * 2**20

# Shape legend: B batch, N = H*W tokens, C channels, E hidden channels; n tokens that a band reads,
# m tokens that it makes.

Activate = Callable[..., Tensor]
Layer = tuple[Tensor, Tensor]  # weight (K, C) and bias (K,) of a linear layer


def linear_of_gelu(tokens: Tensor, fc2: Layer) -> Tensor:
    """Compute ``linear(gelu(tokens), *fc2)`` and keep of the wide tensors only what is given.

    Autograd keeps what the GELU makes as well, for the gradient of the weight. Here it is made anew
    in the backward pass if it is large.

    Args:
        tokens: ``(B, N, E)``.
        fc2: Weight ``(C, E)`` and bias of the layer.

    Returns:
        ``(B, N, C)``; its gradients are those of the two operators.
    """
    if tokens.nbytes <= SMALL_BYTES or not hasattr(torch.amp, "custom_fwd"):
        return linear(F.gelu(tokens), *fc2)
    return _LinearOfGelu.apply(tokens, *fc2)  # type: ignore[no-untyped-call]  # torch's


def mlp_in_bands(
    tokens: Tensor,
    fc1: Layer,
    activate: Activate,
    fc2: Layer,
    hw: tuple[int, int],
    params: tuple[Tensor, ...] = (),
    halo: int = 0,
) -> Tensor:
    """Compute ``linear(activate(linear(tokens, *fc1)), *fc2)`` and keep what ``fc1`` makes only.

    The activations are as wide. Here they, and the gradients with respect to them, exist for one
    band at a time, which saves memory and, on CPUs, the time to get it: what is kept is kept in
    pieces that the C library hands out again, not in whole maps that come from the system afresh.

    Args:
        tokens: ``(B, N, C)``.
        fc1: Weight ``(E, C)`` and bias of the first layer.
        activate: Called with ``(1, n, E)`` tokens, their band and ``params``; returns ``(1, m, E)``
            without changing what it is given. It must be deterministic.
        fc2: Weight ``(C, E)`` and bias of the second layer.
        hw: ``(H, W)`` in tokens.
        params: The parameters that ``activate`` uses.
        halo: Rows that ``activate`` reads above and below each row.

    Returns:
        ``(B, N, C)``; its gradient reaches ``tokens``, both layers and ``params``.

    Reference: Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174.
    """
    if not hasattr(torch.amp, "custom_fwd"):
        return linear(activate(linear(tokens, *fc1), Band.whole(hw), *params), *fc2)
    return _MlpInBands.apply(  # type: ignore[no-untyped-call]  # torch's
        tokens, *fc1, *fc2, activate, hw, halo, *params
    )


def _in_autocast(name: str) -> Callable[[Any], Any]:
    """Decorate with ``torch.amp``'s ``name``, which keeps autocast on in the backward pass."""
    decorator = getattr(torch.amp, name, None)  # since torch 2.4
    return decorator(device_type="cpu") if decorator else lambda function: function


class _LinearOfGelu(torch.autograd.Function):
    @staticmethod
    @_in_autocast("custom_fwd")
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        return linear(F.gelu(tokens), weight, bias)

    @staticmethod
    @_in_autocast("custom_bwd")
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        grad, *of_layer = linear_gradients(grad_out, F.gelu(tokens), weight, wanted)
        if grad is not None:  # (B, N, E)
            grad = torch.ops.aten.gelu_backward(grad.to(tokens.dtype), tokens)
        return grad, *of_layer


class _MlpInBands(torch.autograd.Function):
    @staticmethod
    @_in_autocast("custom_fwd")
    def forward(
        ctx: Any,
        tokens: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        activate: Activate,
        hw: tuple[int, int],
        halo: int,
        *params: Tensor,
    ) -> Tensor:
        kept, out = [], torch.empty(0)
        bands = list(cut_in_bands(tokens, hw, weight1.shape[0], halo))
        for band in bands:
            hidden = linear(band.read(tokens), weight1, bias1)  # (1, n, E)
            made = linear(activate(hidden, band, *params), weight2, bias2)
            kept.append(hidden)
            if len(kept) == 1:  # autocast may have chosen another type than the tokens'
                out = made.new_empty(*tokens.shape[:2], made.shape[2])
            band.made(out).copy_(made)
        ctx.save_for_backward(tokens, weight1, weight2, *params, *kept)
        ctx.activate, ctx.bands, ctx.halo = activate, bands, halo
        return out

    @staticmethod
    @_in_autocast("custom_bwd")
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weight1, weight2, *rest = ctx.saved_tensors
        params, kept = rest[: -len(ctx.bands)], rest[-len(ctx.bands) :]
        params = [param.detach().requires_grad_() for param in params]
        grad_tokens = torch.empty_like(tokens)
        grad_weight1, grad_weight2 = torch.zeros_like(weight1), torch.zeros_like(weight2)
        grad_bias1 = weight1.new_zeros(weight1.shape[0])
        grad_params = [torch.zeros_like(param) for param in params]
        transposed1, transposed2 = weight1.t().contiguous(), weight2.t().contiguous()
        for band, hidden in zip(ctx.bands, kept, strict=True):
            grad = band.made(grad_out)  # (1, m, C)
            with torch.enable_grad():
                hidden = hidden.detach().requires_grad_()
                activation = ctx.activate(hidden, band, *params)  # (1, m, E)
            grad_weight2 += weight_gradient(grad, activation.detach())
            grad_activation = linear(grad, transposed2).to(activation.dtype)
            grads = torch.autograd.grad(activation, (hidden, *params), grad_activation)
            grad_weight1 += weight_gradient(grads[0], band.read(tokens))
            grad_bias1 += grads[0].sum((0, 1))
            _add_to_rows(grad_tokens, linear(grads[0], transposed1), band, 2 * ctx.halo)
            for total, part in zip(grad_params, grads[1:], strict=True):
                total += part
            del activation, grad_activation, grads, hidden  # before the next band needs memory
        grad_bias2 = grad_out.sum((0, 1)).to(weight2.dtype)
        layers = (grad_weight1, grad_bias1, grad_weight2, grad_bias2)
        return grad_tokens, *layers, None, None, None, *grad_params


def _add_to_rows(total: Tensor, part: Tensor, band: Band, overlap: int) -> None:
    """Put a band's gradient in its place; the rows it shares with the band above are summed."""
    shared = overlap * band.width if band.above else 0
    place = band.read(total)
    place[:, :shared] += part[:, :shared]
    place[:, shared:] = part[:, shared:]
