"""Compile the TreeEnsembleClassifier node of an ONNX file for the bit-mask kernel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from consumer.core import quickscorer_kernel

_BINARY: Final = 2
_WIDTHS: Final = (np.uint8, np.uint16, np.uint32, np.uint64)


class UnsupportedEnsembleError(Exception):
    """The ensemble needs another engine; the message says what it has that this one lacks."""


@dataclass(frozen=True, slots=True)
class _Tree:
    """Nodes of one tree by id: feature, threshold, children, where NaN goes; leaf weights."""

    feature: dict[int, int]
    threshold: dict[int, np.float32]
    if_true: dict[int, int]
    if_false: dict[int, int]
    nan_is_true: dict[int, bool]
    weight: dict[int, float]


class QuickScorer:
    """
    Scores rows of an ensemble whose trees have at most 64 leaves each.

    Leaf weights are ONNX's float32 summed in float64, so a score depends neither on the batch
    around a row nor on threads. Source of the node's meaning: ONNX ai.onnx.ml operator
    specification, TreeEnsembleClassifier, binary case with one weight per leaf.
    """

    engine: Final = "quickscorer"

    def __init__(self, attributes: Mapping[str, Any], feature_count: int) -> None:
        """
        Build the tables from the node's attributes, names and values as ONNX has them.

        Raises UnsupportedEnsembleError for tests other than <=, several classes, or large trees.
        """
        _refuse_what_differs(attributes)
        trees = _trees(attributes)
        orders = [_leaves_left_to_right(tree) for tree in trees]
        most = max(len(order) for order in orders)
        width = next((w for w in _WIDTHS if most <= 8 * np.dtype(w).itemsize), None)
        if width is None:
            raise UnsupportedEnsembleError(f"a tree has {most} leaves, more than 64")
        self._leaves = np.zeros((len(trees), 8 * np.dtype(width).itemsize), np.float32)
        for t, (tree, order) in enumerate(zip(trees, orders, strict=True)):
            self._leaves[t, : len(order)] = [tree.weight[leaf] for leaf in order]
        per_feature = [
            np.unique(
                [tree.threshold[n] for tree in trees for n, g in tree.feature.items() if g == f]
            )
            for f in range(feature_count)
        ]
        self._thresholds = np.concatenate(per_feature).astype(np.float32)
        counts = [len(thresholds) for thresholds in per_feature]
        self._starts = np.cumsum([0, *counts])
        self._lines = np.cumsum([0, *(count + 2 for count in counts)])[:-1]
        self._masks = np.full(
            (sum(counts) + 2 * feature_count, len(trees)), np.iinfo(width).max, width
        )
        for t, (tree, order) in enumerate(zip(trees, orders, strict=True)):
            self._mask_out(t, tree, order, per_feature)
        self._whole_lines = np.stack(
            [
                line + np.searchsorted(thresholds, np.arange(quickscorer_kernel.WHOLE_NUMBERS))
                for line, thresholds in zip(self._lines, per_feature, strict=True)
            ]
        )
        base = attributes.get("base_values") or [0.0]
        self._base = float(np.float32(base[0]))
        self._logistic = attributes["post_transform"] == b"LOGISTIC"
        self._alive = np.empty(len(trees), width)

    def score(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return float64[n], the probability of fraud of each row of float32[n, features]."""
        out = np.empty(len(rows), np.float64)
        quickscorer_kernel.score(
            rows, self._thresholds, self._starts, self._lines, self._whole_lines, self._masks,
            self._leaves, self._base, self._logistic, self._alive, out,
        )  # fmt: skip
        return out

    def _mask_out(
        self, t: int, tree: _Tree, order: list[int], per_feature: list[NDArray[np.float32]]
    ) -> None:
        """Clear, wherever a node's test fails, the leaves of its left subtree."""
        width = self._masks.dtype.type
        position = {leaf: bit for bit, leaf in enumerate(order)}
        for node, f in tree.feature.items():
            left = _leaves_left_to_right(tree, tree.if_true[node])
            keep = width(int(np.iinfo(width).max) - sum(1 << position[leaf] for leaf in left))
            thresholds = per_feature[f]
            first = int(self._lines[f])
            nan_line = first + len(thresholds) + 1
            fails_from = first + int(np.searchsorted(thresholds, tree.threshold[node])) + 1
            self._masks[fails_from:nan_line, t] &= keep
            if not tree.nan_is_true[node]:
                self._masks[nan_line, t] &= keep


def _refuse_what_differs(attributes: Mapping[str, Any]) -> None:
    modes = set(attributes["nodes_modes"]) - {b"LEAF"}
    if modes - {b"BRANCH_LEQ"}:
        raise UnsupportedEnsembleError(f"its tests are {sorted(modes)}, not BRANCH_LEQ alone")
    labels = attributes.get("classlabels_int64s", ())
    if len(labels) != _BINARY or len(set(attributes["class_ids"])) != 1:
        raise UnsupportedEnsembleError("it is not binary with one weight per leaf")
    if attributes.get("post_transform") not in {b"NONE", b"LOGISTIC"}:
        raise UnsupportedEnsembleError(f"its transform is {attributes.get('post_transform')!r}")
    if len(attributes.get("base_values") or [0.0]) != 1:
        raise UnsupportedEnsembleError("it has several base values")


def _trees(attributes: Mapping[str, Any]) -> list[_Tree]:
    trees: dict[int, _Tree] = {}
    to_nan = attributes.get("nodes_missing_value_tracks_true") or [0] * len(
        attributes["nodes_modes"]
    )
    for k, number in enumerate(attributes["nodes_treeids"]):
        tree = trees.setdefault(number, _Tree({}, {}, {}, {}, {}, {}))
        node = attributes["nodes_nodeids"][k]
        if attributes["nodes_modes"][k] == b"LEAF":
            tree.weight[node] = 0.0
            continue
        tree.feature[node] = attributes["nodes_featureids"][k]
        tree.threshold[node] = np.float32(attributes["nodes_values"][k])
        tree.if_true[node] = attributes["nodes_truenodeids"][k]
        tree.if_false[node] = attributes["nodes_falsenodeids"][k]
        tree.nan_is_true[node] = bool(to_nan[k])
    weights = zip(
        attributes["class_treeids"], attributes["class_nodeids"], attributes["class_weights"],
        strict=True,
    )  # fmt: skip
    for number, leaf, weight in weights:
        trees[number].weight[leaf] = weight
    return [trees[number] for number in sorted(trees)]


def _leaves_left_to_right(tree: _Tree, root: int = 0) -> list[int]:
    """
    Return the leaves under a node, those where tests hold first. A stack, as trees may be deep.
    """
    leaves, waiting = [], [root]
    while waiting:
        node = waiting.pop()
        if node in tree.feature:
            waiting += [tree.if_false[node], tree.if_true[node]]
        else:
            leaves.append(node)
    return leaves
