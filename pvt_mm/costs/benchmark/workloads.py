"""From a case and a contender to the step that is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from pvt_mm.backbones import ARCHS
from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.contenders import build_backbone
from pvt_mm.costs.benchmark.steps import backbone_step, make_image

__all__ = ["Workload", "import_contender", "prepare"]


@dataclass(frozen=True)
class Workload:
    """A contender at work.

    Args:
        module: What works.
        step: Does one step.
        detail: What a reader should know of how it runs.
    """

    module: nn.Module
    step: Callable[[], object]
    detail: str


def prepare(contender: str, case: Case) -> Workload:
    """Build a contender and its step.

    Raises:
        Unavailable: If the contender cannot take part in this case.
    """
    torch.manual_seed(0)
    if case.is_config:
        from pvt_mm.costs.benchmark.configs import prepare_config

        return prepare_config(contender, case)
    built = build_backbone(contender, case.model, case.shape, case.with_cp)
    module = built.module.to(case.device)
    image = make_image(case)
    called = torch.compile(module, dynamic=case.dynamic or None) if case.compile else module
    step = backbone_step(called, image, case, fused=case.device == "cuda")
    return Workload(module, step, built.detail)


def import_contender(contender: str, case: Case) -> None:
    """Import and touch all that a contender needs, so that it counts as the base of memory.

    The smallest architecture that the contender has is built and run once on a tiny image: it
    loads the lazily imported parts and starts the thread pool.

    Raises:
        Unavailable: If the contender cannot take part in this case.
    """
    if case.is_config:
        from pvt_mm.costs.benchmark.configs import import_models

        import_models(case.model)
        return
    arch = "pvt_tiny" if ARCHS[case.model].version == 1 else "pvt_v2_b0"
    module = build_backbone(contender, arch, (64, 64)).module
    with torch.inference_mode():
        module.eval()(torch.zeros(1, 3, 64, 64))
