"""A chart of what one measure found."""

from pathlib import Path

import matplotlib as mpl

from bench.harness import Measured, three_digits

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "cuggu"  # the same figures make the same file
mpl.rcParams["svg.fonttype"] = "none"

from matplotlib import pyplot  # noqa: E402 - after the backend was chosen

CHARTS = Path(__file__).parents[1] / "docs" / "images"
OURS, THEIRS = "#8a4b3c", "#b9b2a8"


def chart_path(name: str) -> Path:
    """Where the chart of a measure lies."""
    return CHARTS / f"bench-{name.lower()}.svg"


def draw(found: Measured, path: Path) -> None:
    """Its bars, ours in another colour; nothing where there are none."""
    if not found.bars:
        return
    names = list(found.bars)[::-1]
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.42 * len(names)), layout="constrained")
    bars = axes.barh(names, [found.bars[name] for name in names],
                     color=[OURS if name.startswith("ours") else THEIRS for name in names])  # fmt: skip
    axes.bar_label(bars, fmt=three_digits, padding=3)
    axes.set_xlabel(found.unit)
    axes.set_title(found.title, loc="left")
    axes.margins(x=0.12)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
