"""Whether every way to run a backbone computes what eager float32 does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import _paths  # noqa: F401
import torch
from torch import Tensor, nn

from pvt_mm.costs.benchmark.case import Case
from pvt_mm.costs.benchmark.contenders import build_backbone
from pvt_mm.costs.benchmark.steps import autocast, make_image

EXECUTIONS = ("eager", "compile", "dynamic", "graphs")

# Largest relative error, in the 2-norm, of features and of gradients.
TOLERANCE = {"float32": (5e-3, 2e-2), "bfloat16": (3e-2, 2e-1), "float16": (5e-3, 5e-2)}
EXACT = (1e-4, 1e-3)  # of float32 without TF32
# As a loss scaler would: gradients of a mean over a map are below what float16 resolves.
LOSS_SCALE = {"float16": 2.0**12}


def precise(device: str, tf32: bool) -> None:
    """Let float32 products on a GPU use TF32, or not."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    if device == "cuda":
        torch.backends.cudnn.allow_tf32 = tf32


def executed(module: nn.Module, execution: str, backend: str) -> Callable:
    """The module as an execution calls it; graphs are captured around whole steps instead."""
    if execution in ("compile", "dynamic"):
        return torch.compile(module, dynamic=execution == "dynamic", backend=backend)
    return module


def relative_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """2-norm of the difference over that of what is expected; the worst tensor counts."""
    errors = []
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = ours.detach().double().cpu(), theirs.detach().double().cpu()
        errors.append(float((ours - theirs).norm() / theirs.norm().clamp_min(1e-12)))
    return max(errors, default=0.0)


def maps_and_gradients(
    call: Callable, module: nn.Module, case: Case
) -> tuple[list[Tensor], list[Tensor]]:
    """Feature maps, and the gradients of all parameters together and of the image.

    The gradients of single biases may vanish but for rounding, so that parameters count as one.
    """
    image = make_image(case).requires_grad_()
    module.zero_grad(set_to_none=True)
    with autocast(case):
        maps = call(image)
    # Not the mean: behind a layer norm its gradient is zero but for rounding.
    weights = torch.Generator().manual_seed(1)
    loss = sum(
        (each.float() * torch.randn(each.shape, generator=weights).to(each.device)).mean()
        for each in maps
    )
    scale = LOSS_SCALE.get(case.dtype, 1.0)
    (loss * scale).backward()
    gradients = [each.grad.flatten().double() for each in module.parameters()]
    gradients = [torch.cat(gradients) / scale, image.grad / scale]
    found = [each.detach().float() for each in maps], gradients
    module.zero_grad(set_to_none=True)
    return found


def check(case: Case, ways: Iterable[tuple[str, str]], backend: str) -> list[dict]:
    """Compare all ways to run our backbone with eager float32, and that with the CPU.

    What runs on the device are the fast modules, what runs on the CPU the plain ones.

    Args:
        case: Model, shape and device; its batch counts.
        ways: Pairs of ``EXECUTIONS`` and ``DTYPES``; graphs are left out, they replay the eager
            kernels.
        backend: Of ``torch.compile``.

    Returns:
        A row for each, with errors, tolerances and the verdict.
    """
    plain, module = _same_weights(case, "pvt_mm_plain"), _same_weights(case, "pvt_mm")
    exact = replace(case, dtype="float32")
    precise(case.device, tf32=False)
    on_cpu = maps_and_gradients(plain, plain, replace(exact, device="cpu"))
    module.to(case.device)
    reference = maps_and_gradients(module, module, exact)
    rows = [verdict(case.model, "float32, no TF32, against the CPU", reference, on_cpu, EXACT)]
    with torch.inference_mode():
        maps = module.eval()(make_image(exact))
    module.train()
    label = "the same without gradient"
    rows.append(verdict(case.model, label, (maps, []), (on_cpu[0], []), EXACT))
    for execution, dtype in ways:
        if execution == "graphs":
            continue
        precise(case.device, tf32=True)
        label = f"{dtype}, {execution}"
        try:
            torch._dynamo.reset()
            found = maps_and_gradients(
                executed(module, execution, backend), module, replace(case, dtype=dtype)
            )
        except Exception as error:  # one way that fails must not hide the others
            rows.append({"model": case.model, "what": label, "error": repr(error)[:300]})
        else:
            rows.append(verdict(case.model, label, found, reference, TOLERANCE[dtype]))
        print(f"... checked {case.model}, {label}", file=sys.stderr, flush=True)
    return rows


def _same_weights(case: Case, contender: str) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone(contender, case.model, case.shape).module.train()


def verdict(
    model: str, what: str, found: tuple, expected: tuple, tolerance: tuple[float, float]
) -> dict[str, Any]:
    """A row of the table: results and gradients against those that are expected."""
    features, gradients = (relative_error(a, b) for a, b in zip(found, expected, strict=True))
    return {
        "model": model,
        "what": what,
        "features": float(f"{features:.3g}"),
        "gradients": float(f"{gradients:.3g}"),
        "tolerance": list(tolerance),
        "passed": features <= tolerance[0] and gradients <= tolerance[1],
    }
