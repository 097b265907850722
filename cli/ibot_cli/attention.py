"""`ibot attention`: images and moving pictures become strips that show what [CLS] attends to."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ibot_cli.models import Device, ModelName, chosen_model
from ibot_cli.options import options_from
from ibot_hub.options import AttentionOptions


@options_from(AttentionOptions)
def attention(
    images: Annotated[
        str, typer.Argument(help="An image, a video, a folder, a text file of paths, .tar shards, or - for paths on standard input.")
    ],
    model: ModelName = None,
    out: Annotated[
        Path, typer.Option("-o", "--out", help="The folder to write; or of one image the file: .png, or .mp4 or .webp where it moves.")
    ] = Path("attention"),
    network: Annotated[str | None, typer.Option("--network", help="teacher or student; default: what the catalogue says.")] = None,
    device: Device = "auto",
    *,
    options: AttentionOptions,
) -> None:
    """Draw what each attention head of [CLS] looks at.

    Image, coloured overlay, one map a head. Videos become MP4, animated files animated WebP; OUT's own ending goes first.
    """
    from ibot_hub.devices import choose_devices
    from ibot_hub.loading import load
    from ibot_hub.strips import check_request, write_strips
    from ibot_hub.swin import Swin

    check_request(images, out, options)  # before a model is fetched for nothing
    chosen = choose_devices(device)[0]
    loaded = load(chosen_model(model), network=network, head=False, device=chosen)
    print(f"{loaded.card.name}: {loaded.card.in_words()}", file=sys.stderr)
    if isinstance(loaded.backbone, Swin):
        instead = "shown instead is the cosine of each patch with the image's vector, the mean of its patches"
        print(f"A Swin has no [CLS] token, so it has no attention map of one; {instead}.", file=sys.stderr)
    result = write_strips(loaded, images, out, options, stdin=sys.stdin.buffer if sys.stdin else None)
    for name, reason in result.failed:
        print(f"{name}: {reason}", file=sys.stderr)
    could_not = f"; {len(result.failed)} could not be read" if result.failed else ""
    print(f"{result.images - len(result.failed)} of {result.images} images -> {result.out}{could_not}", file=sys.stderr)
    if result.failed and len(result.failed) == result.images:
        raise typer.Exit(1)
