"""Where an iteration's time goes: a clock that a detector's parts are charged to."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import nn


class PartClock:
    """Own time of parts that may call each other.

    Args:
        clock: Seconds since some moment.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def _charge(self) -> None:
        now = self.clock()
        if self._open:
            part = self._open[-1]
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now

    def run(self, part: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
        """Call a function and charge its own time to a part."""
        self._charge()
        self._open.append(part)
        try:
            return function(*args, **kwargs)
        finally:
            self._charge()
            self._open.pop()

    def switch(self, part: str) -> None:
        """Charge what is running to another part from now on, until it returns."""
        self._charge()
        self._open[-1] = part

    def watch(self, owner: object, name: str, part: str) -> None:
        """Charge a method's calls to a part from now on, if the owner has it."""
        function = getattr(owner, name, None)
        if function is None:
            return

        def timed(*args: Any, **kwargs: Any) -> Any:
            return self.run(part, function, *args, **kwargs)

        setattr(owner, name, timed)


def watch_detector(model: nn.Module, optim_wrapper: object, clock: PartClock) -> None:
    """Let a clock see a detector's parts and its optimizer."""
    clock.watch(model.data_preprocessor, "forward", "preprocess")
    _mark_backbone_gradient(model.backbone, clock)
    clock.watch(model.backbone, "forward", "backbone")
    clock.watch(model.neck, "forward", "neck")
    for head in ("bbox_head", "rpn_head", "roi_head"):
        if hasattr(model, head):
            for method in ("loss", "loss_and_predict"):
                clock.watch(getattr(model, head), method, "heads")
    seen = set()
    for module in model.modules():
        for name, value in vars(module).items():
            if name.endswith(("assigner", "sampler")) and id(value) not in seen:
                seen.add(id(value))
                clock.watch(value, "assign", "assigners")
                clock.watch(value, "sample", "assigners")
        for name, child in module.named_children():
            if name.startswith("loss_"):
                clock.watch(child, "forward", "losses")
    clock.watch(optim_wrapper, "backward", "backward of neck and heads")
    for method in ("step", "zero_grad"):
        clock.watch(optim_wrapper, method, "optimizer")


def _mark_backbone_gradient(backbone: nn.Module, clock: PartClock) -> None:
    """Tell the clock when the backward pass enters the backbone.

    Autograd works on what was computed last first: once the gradient of the last map, which only
    the neck reads, is there, the backbone alone is left.
    """
    forward = backbone.forward

    def marked(*args: Any, **kwargs: Any) -> Any:
        maps = forward(*args, **kwargs)
        maps[-1].register_hook(lambda gradient: clock.switch("backward of backbone"))
        return maps

    backbone.forward = marked
