"""Pictures of an evaluation, as PNG. Needs matplotlib, so it is imported when one is asked for."""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from consumer.records import Bools


def precision_recall(is_fraud: Bools, probabilities: NDArray[np.float64], title: str) -> bytes:
    """Plot precision against recall for every threshold there is."""
    precision, recall, _ = precision_recall_curve(is_fraud, probabilities)
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.step(recall, precision, where="post")
    axes.axhline(is_fraud.mean(), linestyle=":", color="grey")  # what chance would reach
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=title)
    return _png(figure)


def recall_by_scenario(recalls: Mapping[str, float], title: str) -> bytes:
    """Plot a bar for the recall of each scenario."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    bars = axes.bar(list(recalls), list(recalls.values()))
    axes.bar_label(bars, fmt="%.2f")
    axes.set(xlabel="scenario", ylabel="recall at 1 % alerts", ylim=(0, 1.1), title=title)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    out = BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
