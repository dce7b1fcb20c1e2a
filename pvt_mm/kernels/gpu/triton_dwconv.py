"""Triton kernels: 3x3 depth-wise convolution, bias and GELU on tokens, and their gradients.

Imports Triton, so it is imported at the first launch only. Both kernels walk down a strip of the
map: a program owns ``BLOCK_W`` columns and ``BLOCK_C`` channels, reads each row of the strip once
(three times from the L1 cache, shifted by a column) and keeps in registers what the next rows
need. Memory traffic is then one read and one write, plus the strip's two neighbouring rows.
"""

import triton
import triton.language as tl

__all__ = ["conv_kernel", "grad_kernel"]

# Shape legend: B batch, (H, W) map in tokens, N = H*W tokens, E channels.

# A map's height and width change from image to image: never compile anew for them.
_jit = triton.jit(do_not_specialize=["height", "width"])


@triton.jit
def _strip(
    height, width, channels, ROWS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Find this program's strip: image, first row, end row, columns, channels, and its number."""
    c_blocks = tl.cdiv(channels, BLOCK_C)
    w_blocks = tl.cdiv(width, BLOCK_W)
    h_blocks = tl.cdiv(height, ROWS)
    pid = tl.program_id(0)
    strip = pid // c_blocks  # channels fastest: neighbours in time are neighbours in memory
    first = (strip // w_blocks) % h_blocks * ROWS
    cols = (strip % w_blocks) * BLOCK_W + tl.arange(0, BLOCK_W)
    chans = (pid % c_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
    image = tl.cast(strip // w_blocks // h_blocks, tl.int64)
    return image, first, min(first + ROWS, height), cols[:, None], chans[None, :], strip


@triton.jit
def _load_row(ptr, row, height, width, channels, cols, chans):
    """Load a row's tiles around columns ``cols - 1``, ``cols`` and ``cols + 1``, zero outside."""
    pitch = tl.cast(width, tl.int64) * channels
    tile = ptr + row * pitch + (cols * channels + chans)
    inside = chans < channels
    end = tl.where((row >= 0) & (row < height), width, 0)  # rows outside have no columns
    left = tl.load(tile - channels, mask=inside & (cols >= 1) & (cols <= end), other=0.0)
    mid = tl.load(tile, mask=inside & (cols < end), other=0.0)
    right = tl.load(tile + channels, mask=inside & (cols + 1 < end), other=0.0)
    return left, mid, right


@triton.jit
def _load_taps(ptr, chans, channels, ROW: tl.constexpr, FLIP: tl.constexpr, ACC: tl.constexpr):
    """Load a row of the 3x3 kernels; ``FLIP`` turns them by 180 degrees."""
    start: tl.constexpr = 8 - 3 * ROW if FLIP else 3 * ROW
    step: tl.constexpr = -1 if FLIP else 1
    taps = ptr + chans * 9 + start
    inside = chans < channels
    first = tl.load(taps, mask=inside, other=0.0).to(ACC)
    second = tl.load(taps + step, mask=inside, other=0.0).to(ACC)
    third = tl.load(taps + 2 * step, mask=inside, other=0.0).to(ACC)
    return first, second, third


@triton.jit
def _dot(left, mid, right, first, second, third, ACC: tl.constexpr):
    return left.to(ACC) * first + mid.to(ACC) * second + right.to(ACC) * third


@triton.jit
def _cdf(x):
    """Integrate the normal distribution up to ``x``."""
    return 0.5 + 0.5 * tl.erf(x * 0.7071067811865476)


@_jit
def conv_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    height,
    width,
    channels,
    ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
    ACC: tl.constexpr,
    GRAD: tl.constexpr,
):
    """``y = gelu(conv(x) + bias)``, or with ``GRAD`` the convolution's gradient of its input."""
    image, first, end, cols, chans, _ = _strip(height, width, channels, ROWS, BLOCK_W, BLOCK_C)
    x_ptr += image * height * width * channels
    y_ptr += image * height * width * channels
    pitch = tl.cast(width, tl.int64) * channels
    stored = (cols < width) & (chans < channels)
    a0, a1, a2 = _load_taps(weight_ptr, chans, channels, 0, GRAD, ACC)
    b0, b1, b2 = _load_taps(weight_ptr, chans, channels, 1, GRAD, ACC)
    c0, c1, c2 = _load_taps(weight_ptr, chans, channels, 2, GRAD, ACC)
    if GRAD:
        bias = tl.zeros([1, BLOCK_C], ACC)
    else:
        bias = tl.load(bias_ptr + chans, mask=chans < channels, other=0.0).to(ACC)

    # Rows of sums that wait for input rows: `upper` for one more, `lower` for two more.
    left, mid, right = _load_row(x_ptr, first - 1, height, width, channels, cols, chans)
    upper = bias + _dot(left, mid, right, a0, a1, a2, ACC)
    left, mid, right = _load_row(x_ptr, first, height, width, channels, cols, chans)
    upper += _dot(left, mid, right, b0, b1, b2, ACC)
    lower = bias + _dot(left, mid, right, a0, a1, a2, ACC)
    for row in tl.range(first, end, num_stages=STAGES):
        left, mid, right = _load_row(x_ptr, row + 1, height, width, channels, cols, chans)
        y = upper + _dot(left, mid, right, c0, c1, c2, ACC)
        upper = lower + _dot(left, mid, right, b0, b1, b2, ACC)
        lower = bias + _dot(left, mid, right, a0, a1, a2, ACC)
        if not GRAD:
            y = y * _cdf(y)
        tl.store(y_ptr + row * pitch + (cols * channels + chans), y, mask=stored)


@_jit
def grad_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    grad_ptr,
    out_ptr,
    sums_ptr,
    height,
    width,
    channels,
    ROWS: tl.constexpr,
    BLOCK_W: tl.constexpr,
    BLOCK_C: tl.constexpr,
    STAGES: tl.constexpr,
    ACC: tl.constexpr,
):
    """Gradient before the GELU, and this strip's share of the weight's and the bias's gradients.

    The convolution is computed again, so that its result need not be kept since the forward pass.
    """
    image, first, end, cols, chans, strip = _strip(height, width, channels, ROWS, BLOCK_W, BLOCK_C)
    x_ptr += image * height * width * channels
    grad_ptr += image * height * width * channels
    out_ptr += image * height * width * channels
    pitch = tl.cast(width, tl.int64) * channels
    stored = (cols < width) & (chans < channels)
    a0, a1, a2 = _load_taps(weight_ptr, chans, channels, 0, False, ACC)
    b0, b1, b2 = _load_taps(weight_ptr, chans, channels, 1, False, ACC)
    c0, c1, c2 = _load_taps(weight_ptr, chans, channels, 2, False, ACC)
    bias = tl.load(bias_ptr + chans, mask=chans < channels, other=0.0).to(ACC)

    zeros = tl.zeros([BLOCK_W, BLOCK_C], ACC)
    ga0, ga1, ga2, gb0, gb1, gb2, gc0, gc1, gc2 = (
        zeros,
        zeros,
        zeros,
        zeros,
        zeros,
        zeros,
        zeros,
        zeros,
        zeros,
    )
    gbias = zeros
    xa0, xa1, xa2 = _load_row(x_ptr, first - 1, height, width, channels, cols, chans)
    xa0, xa1, xa2 = xa0.to(ACC), xa1.to(ACC), xa2.to(ACC)
    xb0, xb1, xb2 = _load_row(x_ptr, first, height, width, channels, cols, chans)
    for row in tl.range(first, end, num_stages=STAGES):
        xc0, xc1, xc2 = _load_row(x_ptr, row + 1, height, width, channels, cols, chans)
        offsets = row * pitch + (cols * channels + chans)
        z = bias + _dot(xa0, xa1, xa2, a0, a1, a2, ACC)
        z += _dot(xb0, xb1, xb2, b0, b1, b2, ACC)
        z += _dot(xc0, xc1, xc2, c0, c1, c2, ACC)
        slope = _cdf(z) + z * 0.3989422804014327 * tl.exp(-0.5 * z * z)
        grad = tl.load(grad_ptr + offsets, mask=stored, other=0.0).to(ACC) * slope
        tl.store(out_ptr + offsets, grad, mask=stored)
        ga0 += grad * xa0.to(ACC)
        ga1 += grad * xa1.to(ACC)
        ga2 += grad * xa2.to(ACC)
        gb0 += grad * xb0.to(ACC)
        gb1 += grad * xb1.to(ACC)
        gb2 += grad * xb2.to(ACC)
        gc0 += grad * xc0.to(ACC)
        gc1 += grad * xc1.to(ACC)
        gc2 += grad * xc2.to(ACC)
        gbias += grad
        # Converted, not only renamed: Triton prefetches no rows in a loop that passes values on
        # unchanged. (Nothing changes in float32, whose rows are twice the bytes in flight.)
        xa0, xa1, xa2 = xb0.to(ACC), xb1.to(ACC), xb2.to(ACC)
        xb0, xb1, xb2 = xc0, xc1, xc2

    sums_ptr += tl.cast(strip, tl.int64) * 10 * channels + chans
    inside = chans < channels
    tl.store(sums_ptr, tl.sum(ga0, 0, keep_dims=True), mask=inside)
    tl.store(sums_ptr + channels, tl.sum(ga1, 0, keep_dims=True), mask=inside)
    tl.store(sums_ptr + 2 * channels, tl.sum(ga2, 0, keep_dims=True), mask=inside)
    tl.store(sums_ptr + 3 * channels, tl.sum(gb0, 0, keep_dims=True), mask=inside)
    tl.store(sums_ptr + 4 * channels, tl.sum(gb1, 0, keep_dims=True), mask=inside)
    tl.store(sums_ptr + 5 * channels, tl.sum(gb2, 0, keep_dims=True), mask=inside)
    tl.store(sums_ptr + 6 * channels, tl.sum(gc0, 0, keep_dims=True), mask=inside)
    tl.store(sums_ptr + 7 * channels, tl.sum(gc1, 0, keep_dims=True), mask=inside)
    tl.store(sums_ptr + 8 * channels, tl.sum(gc2, 0, keep_dims=True), mask=inside)
    tl.store(sums_ptr + 9 * channels, tl.sum(gbias, 0, keep_dims=True), mask=inside)
