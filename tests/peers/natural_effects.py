"""Print how far each peer is from the release as it comes, with the same weights.

The tests give the peers the release's epsilon and take transformers' class token away; this
leaves them alone. For each model: largest difference over all features of one image, relative to
the largest feature. Run: .venv-peers/bin/python tests/peers/natural_effects.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from networks import MODELS, build_peer, features, load, ours, random_state  # noqa: E402

from pvt_mm.backbones import ARCHS  # noqa: E402
from pvt_mm.checkpoints import map_state_dict  # noqa: E402


@torch.no_grad()
def main():
    """Print one line a model: full contrast, low contrast, and stage 4 apart for v1."""
    print(
        "| peer | model | stages 1-3, image of std 1 | of std 0.01 | stage 4, of std 1 | of 0.01 |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for family, name in MODELS:
        size = 64
        state = random_state(name, size if family == "transformers" else 224)
        peer = load(build_peer(family, name, size), state, family, name)
        options = {"pretrain_img_size": size if family == "transformers" else 224}
        options = options if ARCHS[name].version == 1 else {}
        backbone = ours(name, map_state_dict(state)[0], **options)
        cells = []
        for contrast in (1.0, 0.01):
            torch.manual_seed(0)
            image = torch.randn(1, 3, size, size) * contrast
            a, b = features(peer, family, name, image), backbone(image)
            off = [float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True)]
            cells.append((max(off[:3]), off[3]))
        (full, full4), (low, low4) = cells
        print(
            f"| {family} | {name} | {full:.0e} | {low:.0e} | {full4:.0e} | {low4:.0e} |", flush=True
        )


if __name__ == "__main__":
    main()
