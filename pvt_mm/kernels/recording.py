"""Is PyTorch recording a graph, or computing?"""

from __future__ import annotations

import torch

__all__ = ["is_recording"]

# torch < 2.3 has it elsewhere. Dynamo knows both, and puts in True.
_is_compiling = getattr(torch.compiler, "is_compiling", None) or torch._utils.is_compiling


def is_recording() -> bool:
    """Whether the call is part of ``torch.compile``, of an export or of a trace."""
    return bool(_is_compiling() or torch._C._get_tracing_state())
