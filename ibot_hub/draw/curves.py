"""Numbers become curves on white paper, through matplotlib."""

import io
from collections.abc import Mapping, Sequence

from PIL import Image

from ibot_hub.errors import UsageError

SIZE = (6.4, 4.4)  # inches
DPI = 150
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # of Okabe and Ito
MARKERS = "osD^vP"


def draw_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], *, title: str, across: str, up: str, logarithmic: bool = False
) -> Image.Image:
    """Curves through their points (x, y), each with its name, colour and marker: six colours, which come again.

    Args:
        across, up: what x and y are, with their units.
        logarithmic: x on a scale of powers of two, marked at the points themselves.

    Raises:
        UsageError: matplotlib is missing.
    """
    check_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, points) in enumerate(curves.items()):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, label=name, color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)])
    if logarithmic:
        marks = sorted({x for points in curves.values() for x, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(marks, [f"{mark:g}" for mark in marks])
        axes.minorticks_off()
    axes.set(title=title, xlabel=across, ylabel=up)
    axes.set_ylim(0, 1.05 * max((y for points in curves.values() for _, y in points), default=0) or 1)  # room for the markers
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        axes.legend(frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return Image.open(drawn).convert("RGB")


def check_matplotlib() -> None:
    """Raises UsageError where matplotlib is missing, so that a command can say so before it measures anything."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError("A curve is drawn with matplotlib: pip install 'ibot-hub[eval]'.") from error
