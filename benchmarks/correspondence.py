"""How many patches find their true partner, beside networks that learned nothing, raw pixels, and no look at all.

    python -m benchmarks.correspondence                 two minutes; --quick to see that all runs
    python -m benchmarks.correspondence vit_s16 ...     other models

The wall: examples/photos/graf1.jpg and graf3.jpg, whose homography is known; of all patches of the first whose true partner lies in the
second, the share whose partner is the same patch, the same or one of its eight neighbours, and within 5 % and 10 % of the longer side
(PCK). Views: two random views of each image of --views, the share of right partners in the overlap (`ibot eval correspondence`).

Every model is followed by its floors, on the same grid of patches: networks of the same shape with the weights that training starts
from, mean and range over --seeds; the normalised pixels of a patch as its
feature, at length 1 (less their mean, as mean colours or by L2 they do no better); and the same
place, where every patch takes the patch at its own place for its partner. Images keep their aspect at the model's own size.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import ibot_hub
from benchmarks.embedded import untrained
from benchmarks.measure import machine
from ibot_hub.correspondence import partner_map
from ibot_hub.evaluation.homography import measure_homography, read_homography
from ibot_hub.evaluation.matching import evaluate_views
from ibot_hub.model import Model
from ibot_hub.options import MatchOptions, Similarity
from ibot_hub.tokens import Tokens

EXAMPLES = Path(__file__).parents[1] / "examples"
WALL = (EXAMPLES / "photos" / "graf1.jpg", EXAMPLES / "photos" / "graf3.jpg")
COLUMNS = ("same patch", "within one", "PCK 5 %", "PCK 10 %", "two views")
Row = dict[str, float]  # column -> per cent


class Pixels(torch.nn.Module):
    """A backbone whose tokens are the pixels of a patch, at length 1."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.anchor = torch.nn.Parameter(torch.zeros(()))  # a model asks its weights for device and dtype

    def forward(self, images: Tensor) -> Tokens:
        side = (self.patch, self.patch)
        grid = (images.shape[2] // self.patch, images.shape[3] // self.patch)
        patches = F.unfold(images, side, stride=side).transpose(1, 2)  # [B, H*W, 3 * patch * patch]
        patches = F.normalize(patches, dim=2).unflatten(1, grid)
        return Tokens(patches.mean(dim=(1, 2)), patches)


class Place(Pixels):
    """A backbone whose tokens tell the place of a patch in its grid and nothing else."""

    def forward(self, images: Tensor) -> Tokens:
        grid = (images.shape[2] // self.patch, images.shape[3] // self.patch)
        places = torch.eye(grid[0] * grid[1]).unflatten(0, grid).expand(len(images), -1, -1, -1)
        return Tokens(places.mean(dim=(1, 2)), places)


def with_backbone(model: Model, backbone: Any) -> Model:
    """Another network that sees the same grid of patches."""
    return Model(backbone, None, None, model.transform, model.card).eval()


def row_of(model: Model, similarity: Similarity, size: int | None, views: Path, limit: int | None) -> Row:
    """Both measurements of one network."""
    transform = replace(model.transform, size=size or model.transform.size, resize=MatchOptions.resize)
    partners = partner_map(model, *WALL, similarity=similarity, transform=transform)
    wall = measure_homography(partners, read_homography(EXAMPLES / "graf1_to_graf3_homography.txt"))
    two = evaluate_views(model, views, size=size, similarity=similarity, limit=limit)
    return dict(zip(COLUMNS, (100 * share for share in (wall.same, wall.within_one, *wall.pck.values(), two.share)), strict=True))


def spread(rows: list[Row]) -> dict[str, str]:
    """Mean (lowest to highest) of each column."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {name: f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})" for name, values in columns.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["tiny"], help="names, files or folders of ViTs (default: %(default)s)")
    parser.add_argument("--size", type=int, help="short side in pixels (default: the model's own)")
    parser.add_argument("--similarity", choices=["dot", "cosine"], default=MatchOptions.similarity, help="of tokens (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="networks with untrained weights (default: %(default)s)")
    parser.add_argument("--views", type=Path, default=EXAMPLES / "photos", metavar="DIR", help="images (default: examples/photos)")
    parser.add_argument("--quick", action="store_true", help="one seed, two images")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    seeds, limit = (1, 2) if options.quick else (options.seeds, None)
    report: dict[str, Any] = {"machine": machine(), "similarity": options.similarity, "rows": {}}
    for name in options.models:
        model = ibot_hub.load(name, head=False)

        def measured(network: Model) -> Row:
            return row_of(network, options.similarity, options.size, options.views, limit)

        size = options.size or model.transform.size
        rows = {f"{name} at {size} px": [measured(model)]}
        rows["untrained"] = [measured(with_backbone(model, untrained(model, seed))) for seed in range(seeds)]
        rows["pixels"] = [measured(with_backbone(model, Pixels(model.transform.patch)))]
        rows["same place"] = [measured(with_backbone(model, Place(model.transform.patch)))]
        report["rows"][name] = rows
        show(rows)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def show(rows: dict[str, list[Row]]) -> None:
    """A Markdown table."""
    print(f"\n| right partners, % | {' | '.join(COLUMNS)} |\n|---|{'---|' * len(COLUMNS)}")
    for name, measured in rows.items():
        cells = spread(measured) if len(measured) > 1 else {column: f"{value:.1f}" for column, value in measured[0].items()}
        print(f"| {name} | {' | '.join(cells[column] for column in COLUMNS)} |")


if __name__ == "__main__":
    main()
