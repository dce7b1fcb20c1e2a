"""Make backbones work in pieces on inputs as small as a test's, whatever the processor."""

from pvt_mm.kernels.cpu import bands, dot_product, linear, recompute


def set_band_bytes(monkeypatch, size):
    """Let a band of an MLP hold so many bytes, and a tensor that is kept though it need not be."""
    for name in ("BAND_BYTES", "LARGE_BYTES"):
        monkeypatch.setattr(bands, name, size)
    monkeypatch.setattr(recompute, "SMALL_BYTES", size)


def set_tile_bytes(monkeypatch, forward, backward):
    """Compute all attention in tiles that hold so many bytes."""
    monkeypatch.setattr(linear, "mkl_is_slow", lambda: True)
    monkeypatch.setattr(dot_product, "fused_attention_is_slow", lambda dtype: True)
    monkeypatch.setattr(dot_product, "FEWEST_QUERIES", 1)
    monkeypatch.setattr(dot_product, "FEWEST_SCORES", 1)
    monkeypatch.setattr(dot_product, "TILE_BYTES", forward)
    monkeypatch.setattr(dot_product, "BACKWARD_TILE_BYTES", backward)
