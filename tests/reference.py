"""PVT v1 and v2 as the papers describe them: plain and slow, straight from a state dict.

An oracle that shares no code with the package: attention is two matrix products and a softmax,
the position embedding is resized by explicit interpolation matrices.
"""

import math

import torch
import torch.nn.functional as F


def features(state, arch, image, pretrain_size=224):
    """Feature maps of the four stages."""
    x = image
    outs = []
    for stage in range(1, 5):
        x = stage_of(state, arch, x, stage, pretrain_size)
        outs.append(x)
    return outs


def stage_of(state, arch, x, stage, pretrain_size):
    i = stage - 1
    if arch.version == 2:
        stride, padding = (4, 3) if stage == 1 else (2, 1)
    else:
        stride, padding = (4, 0) if stage == 1 else (2, 0)
    name = f"patch_embed{stage}"
    x = F.conv2d(x, state[f"{name}.proj.weight"], state[f"{name}.proj.bias"], stride, padding)
    b, c, h, w = x.shape
    t = x.reshape(b, c, h * w).permute(0, 2, 1)
    t = layer_norm(t, state, f"{name}.norm", 1e-5)
    if arch.version == 1:
        grid = pretrain_size // (4 * 2**i)
        embed = state[f"pos_embed{stage}"]
        if stage == 4:
            embed = embed[:, 1:]
        t = t + resize(embed, grid, h, w)
    for index in range(arch.depths[i]):
        block = f"block{stage}.{index}"
        t = t + attention(
            layer_norm(t, state, f"{block}.norm1", 1e-6),
            h,
            w,
            state,
            f"{block}.attn",
            arch.num_heads[i],
            arch.sr_ratios[i],
            arch.linear_sra,
        )
        t = t + mlp(layer_norm(t, state, f"{block}.norm2", 1e-6), h, w, state, f"{block}.mlp", arch)
    if arch.version == 2:
        t = layer_norm(t, state, f"norm{stage}", 1e-6)
    return t.permute(0, 2, 1).reshape(b, c, h, w)


def layer_norm(t, state, name, eps):
    """Norm over the channels, written out."""
    centred = t - t.mean(-1, keepdim=True)
    scale = torch.sqrt((centred**2).mean(-1, keepdim=True) + eps)
    return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(t, state, name):
    """A linear layer as a matrix product."""
    return t @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attention(t, h, w, state, name, heads, sr_ratio, linear_sra):
    """SRA or linear SRA, head by head."""
    b, _, c = t.shape
    d = c // heads
    reduced = t
    grid = t.permute(0, 2, 1).reshape(b, c, h, w)
    if linear_sra:
        grid = F.adaptive_avg_pool2d(grid, 7)
        grid = F.conv2d(grid, state[f"{name}.sr.weight"], state[f"{name}.sr.bias"])
    elif sr_ratio > 1:
        weight, bias = state[f"{name}.sr.weight"], state[f"{name}.sr.bias"]
        grid = F.conv2d(grid, weight, bias, stride=sr_ratio)
    if linear_sra or sr_ratio > 1:
        reduced = grid.reshape(b, c, -1).permute(0, 2, 1)
        reduced = layer_norm(reduced, state, f"{name}.norm", 1e-5)
    if linear_sra:
        reduced = gelu(reduced)
    q = linear(t, state, f"{name}.q")
    kv = linear(reduced, state, f"{name}.kv")
    outs = []
    for head in range(heads):
        qh = q[..., head * d : (head + 1) * d]
        kh = kv[..., head * d : (head + 1) * d]
        vh = kv[..., c + head * d : c + (head + 1) * d]
        weights = torch.softmax(qh @ kh.transpose(1, 2) / math.sqrt(d), dim=-1)
        outs.append(weights @ vh)
    return linear(torch.cat(outs, dim=-1), state, f"{name}.proj")


def mlp(t, h, w, state, name, arch):
    """The MLP of v1, or of v2 with its depth-wise convolution."""
    hidden = linear(t, state, f"{name}.fc1")
    if arch.version == 2:
        if arch.linear_sra:
            hidden = hidden.clamp(min=0)
        b, n, e = hidden.shape
        grid = hidden.permute(0, 2, 1).reshape(b, e, h, w)
        weight, bias = state[f"{name}.dwconv.dwconv.weight"], state[f"{name}.dwconv.dwconv.bias"]
        grid = F.conv2d(grid, weight, bias, padding=1, groups=e)
        hidden = grid.reshape(b, e, n).permute(0, 2, 1)
    return linear(gelu(hidden), state, f"{name}.fc2")


def gelu(x):
    """The exact GELU."""
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def resize(embed, grid, h, w):
    """Bilinear resizing (half-pixel centres, clamped at the borders) of a square grid to (h, w)."""
    table = embed.reshape(grid, grid, -1)
    table = torch.einsum("yg,gxc->yxc", _interpolation(grid, h), table)
    table = torch.einsum("xg,ygc->yxc", _interpolation(grid, w), table)
    return table.reshape(1, h * w, -1)


def _interpolation(old, new):
    matrix = torch.zeros(new, old)
    for i in range(new):
        centre = max((i + 0.5) * old / new - 0.5, 0.0)
        low = int(centre)
        high = min(low + 1, old - 1)
        matrix[i, low] += 1 - (centre - low)
        matrix[i, high] += centre - low
    return matrix
