import numpy as np
import onnx
import pytest
from onnx import helper
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.tree import DecisionTreeClassifier

from consumer.core.engines import OnnxRuntimeModel, open_model
from consumer.core.quickscorer import QuickScorer, UnsupportedEnsembleError
from consumer.core.score import score
from training.bundle import as_onnx

FEATURES = 6


def rows_of(seed, n, *, nan=0.0):
    rng = np.random.default_rng(seed)
    rows = np.floor(rng.gamma(1.5, 8.0, (n, FEATURES))).astype(np.float32)
    rows[rng.random(rows.shape) < nan] = np.nan
    return rows


def boosted(leaves, *, trees=8, nan=0.0):
    n = 1_200 if leaves < 60 else 4_000
    rows = rows_of(0, n, nan=nan)
    noise = np.random.default_rng(1).normal(size=n)
    is_fraud = np.nan_to_num(rows[:, 0] * rows[:, 1]) + 20 * noise > 150
    return HistGradientBoostingClassifier(
        max_iter=trees, max_leaf_nodes=leaves, min_samples_leaf=2, early_stopping=False,
        random_state=0,
    ).fit(rows, is_fraud)  # fmt: skip


def bagged(kind, **parameters):
    rows = rows_of(0, 1_200)
    return kind(random_state=0, **parameters).fit(rows, rows[:, 0] * rows[:, 1] > 150)


CLASSIFIERS = {
    "boosted, 2 leaves": lambda: boosted(2),
    "boosted, 8 leaves": lambda: boosted(8),
    "boosted, 31 leaves": lambda: boosted(31),
    "boosted, 60 leaves": lambda: boosted(60),
    "boosted, 64 leaves": lambda: boosted(64),
    "boosted, one tree": lambda: boosted(31, trees=1),
    "boosted, missing values": lambda: boosted(31, nan=0.2),
    "bagged": lambda: bagged(RandomForestClassifier, n_estimators=6, max_leaf_nodes=60),
    "extra trees": lambda: bagged(ExtraTreesClassifier, n_estimators=6, max_leaf_nodes=30),
}


@pytest.fixture(scope="module", params=CLASSIFIERS, ids=str)
def trained(request):
    """A classifier, and the same as an ONNX file."""
    classifier = CLASSIFIERS[request.param]()
    return classifier, as_onnx(classifier)


@pytest.fixture(scope="module")
def small():
    return as_onnx(boosted(8, trees=3))


def test_scores_equal_those_of_onnxruntime(trained):
    """Both compute from the same file; only the order of the sum differs."""
    _, data = trained
    rows = rows_of(2, 2_000)

    scores = open_model("quickscorer", data, FEATURES).score(rows)

    assert np.abs(scores - OnnxRuntimeModel(data).score(rows)).max() <= 1e-6


def test_scores_equal_those_of_scikit_learn(trained):
    """Leaves lose some bits on their way into the file."""
    classifier, data = trained
    rows = rows_of(3, 2_000)

    scores = open_model("quickscorer", data, FEATURES).score(rows)

    assert np.abs(scores - classifier.predict_proba(rows)[:, 1]).max() <= 1e-5


@pytest.mark.parametrize("nan_in_training", [0.0, 0.2])
def test_missing_values_go_where_the_model_sends_them(nan_in_training):
    """Each node says to which side, whether the training data had any or not."""
    classifier = boosted(31, nan=nan_in_training)
    data = as_onnx(classifier)
    rows = np.concatenate([rows_of(4, 1_000, nan=0.3), np.full((1, FEATURES), np.nan, np.float32)])

    scores = open_model("quickscorer", data, FEATURES).score(rows)

    assert np.abs(scores - OnnxRuntimeModel(data).score(rows)).max() <= 1e-6
    assert np.abs(scores - classifier.predict_proba(rows)[:, 1]).max() <= 1e-5


@pytest.mark.parametrize("value", [-np.inf, np.inf, -0.0, 0.0, 3.4e38, -3.4e38, 1e-45])
def test_extreme_values_are_compared_as_any_other(trained, value):
    """A test is x <= threshold, for every float32."""
    _, data = trained
    rows = rows_of(5, 50)
    rows[:, ::2] = value

    scores = open_model("quickscorer", data, FEATURES).score(rows)

    assert np.abs(scores - OnnxRuntimeModel(data).score(rows)).max() <= 1e-6


def test_values_on_a_threshold_pass_its_test(small):
    """And the next larger float does not."""
    [node] = onnx.load_from_string(small).graph.node
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    tests = [
        (f, np.float32(v))
        for f, v, mode in zip(
            attributes["nodes_featureids"], attributes["nodes_values"], attributes["nodes_modes"],
            strict=True,
        )
        if mode != b"LEAF"
    ]  # fmt: skip
    rows = np.repeat(rows_of(6, 1), 2 * len(tests), axis=0)
    for k, (feature, threshold) in enumerate(tests):
        rows[2 * k, feature] = threshold
        rows[2 * k + 1, feature] = np.nextafter(threshold, np.float32(np.inf))

    scores = open_model("quickscorer", small, FEATURES).score(rows)

    assert np.abs(scores - OnnxRuntimeModel(small).score(rows)).max() <= 1e-6
    assert len(np.unique(scores)) > 2


def test_a_row_scores_the_same_alone_and_in_any_batch(trained):
    """Bit for bit: a replay cuts its batches elsewhere."""
    _, data = trained
    model = open_model("quickscorer", data, FEATURES)
    rows = rows_of(7, 64, nan=0.05)

    together = model.score(rows)

    assert np.concatenate([model.score(row[None]) for row in rows]).tobytes() == together.tobytes()
    assert model.score(rows[::-1].copy())[::-1].tobytes() == together.tobytes()


def test_no_rows_give_no_scores(small):
    """An empty batch."""
    assert open_model("quickscorer", small, FEATURES).score(rows_of(0, 0)).shape == (0,)


def test_scores_are_float64(trained):
    """What the pipeline asks of a model."""
    _, data = trained

    assert open_model("quickscorer", data, FEATURES).score(rows_of(8, 5)).dtype == np.float64


@pytest.mark.parametrize("trees", range(1, 20))
def test_a_forest_that_is_certain_gives_a_probability(trees):
    """A share of 1 / trees in float32, so many times, may sum to a hair over 1."""
    leaves = np.full(trees, np.float32(1 / trees))
    forest = {
        "nodes_treeids": range(trees),
        "nodes_nodeids": [0] * trees,
        "nodes_modes": [b"LEAF"] * trees,
        **{
            f"nodes_{name}": [0] * trees
            for name in ("featureids", "values", "truenodeids", "falsenodeids")
        },
        "nodes_missing_value_tracks_true": [],
        "class_treeids": range(trees),
        "class_nodeids": [0] * trees,
        "class_ids": [1] * trees,
        "class_weights": leaves.tolist(),
    }

    [probability] = score(np.zeros((1, 1), np.float32), QuickScorer(ensemble(**forest), 1))

    assert 1 - 1e-6 < probability <= 1


def ensemble(**changes):
    """Return the attributes of a single tree: x0 <= 1, leaves 0.25 and 0.75."""
    attributes = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_modes": [b"BRANCH_LEQ", b"LEAF", b"LEAF"],
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [1.0, 0.0, 0.0],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "nodes_missing_value_tracks_true": [0, 0, 0],
        "class_treeids": [0, 0],
        "class_nodeids": [1, 2],
        "class_ids": [1, 1],
        "class_weights": [0.25, 0.75],
        "classlabels_int64s": [0, 1],
        "post_transform": b"NONE",
    }
    return attributes | changes


@pytest.mark.parametrize(("x", "probability"), [(1.0, 0.25), (1.5, 0.75), (np.nan, 0.75)])
def test_a_tree_by_hand(x, probability):
    """One test, two leaves; missing goes right unless the node says otherwise."""
    model = QuickScorer(ensemble(), 1)

    assert model.score(np.array([[x]], np.float32)).tolist() == [probability]


def test_a_missing_value_may_go_left():
    """`nodes_missing_value_tracks_true`."""
    model = QuickScorer(ensemble(nodes_missing_value_tracks_true=[1, 0, 0]), 1)

    assert model.score(np.array([[np.nan]], np.float32)).tolist() == [0.25]


def test_without_flags_missing_values_go_right():
    """The attribute is optional, and its default is 0."""
    attributes = ensemble()
    del attributes["nodes_missing_value_tracks_true"]

    scores = QuickScorer(attributes, 1).score(np.array([[np.nan], [0]], np.float32))

    assert scores.tolist() == [0.75, 0.25]


def test_the_base_value_is_added_to_every_score():
    """As the boosting's first guess is."""
    model = QuickScorer(ensemble(base_values=[0.125]), 1)

    assert model.score(np.array([[0]], np.float32)).tolist() == [0.375]


def test_the_logistic_transform_is_applied_last():
    """To the sum of all leaves."""
    model = QuickScorer(ensemble(post_transform=b"LOGISTIC", base_values=[-0.25]), 1)

    assert model.score(np.array([[0]], np.float32)).tolist() == [0.5]


def test_nodes_may_be_listed_in_any_order():
    """They are found by their ids."""
    order = [2, 0, 1]
    shuffled = {
        name: [ensemble()[name][k] for k in order]
        for name in ensemble()
        if name.startswith("nodes")
    }

    model = QuickScorer(ensemble(**shuffled), 1)

    assert model.score(np.array([[0], [9]], np.float32)).tolist() == [0.25, 0.75]


def test_a_feature_that_no_tree_asks_for_changes_nothing():
    """It has no threshold, and may be anything."""
    model = QuickScorer(ensemble(), 3)
    rows = np.array([[0, np.nan, np.inf], [0, 0, 0], [9, 1, -1]], np.float32)

    assert model.score(rows).tolist() == [0.25, 0.25, 0.75]


def test_a_tree_may_be_a_single_leaf():
    """Where the boosting found nothing to split."""
    leaf = {
        name: values[1:2] for name, values in ensemble().items() if name.startswith("nodes")
    } | {"class_treeids": [0], "class_nodeids": [1], "class_ids": [1], "class_weights": [0.25]}
    leaf["nodes_nodeids"], leaf["class_nodeids"] = [0], [0]

    model = QuickScorer(ensemble(**leaf), 1)

    assert model.score(np.array([[0], [np.nan]], np.float32)).tolist() == [0.25, 0.25]


@pytest.mark.parametrize(
    ("changes", "because"),
    [
        ({"nodes_modes": [b"BRANCH_LT", b"LEAF", b"LEAF"]}, "BRANCH_LT"),
        ({"nodes_modes": [b"BRANCH_EQ", b"LEAF", b"LEAF"]}, "BRANCH_EQ"),
        ({"classlabels_int64s": [0, 1, 2]}, "not binary"),
        ({"classlabels_int64s": []}, "not binary"),
        ({"class_ids": [0, 1]}, "not binary"),
        ({"post_transform": b"SOFTMAX"}, "SOFTMAX"),
        ({"post_transform": b"PROBIT"}, "PROBIT"),
        ({"base_values": [0.5, 0.5]}, "several base values"),
    ],
)
def test_an_ensemble_of_another_kind_is_refused_with_what_it_has(changes, because):
    """onnxruntime scores the rest."""
    with pytest.raises(UnsupportedEnsembleError, match=because):
        QuickScorer(ensemble(**changes), 1)


def test_a_tree_of_more_than_64_leaves_is_refused():
    """Its leaves must fit the bits of a word."""
    data = as_onnx(boosted(65, trees=1))

    with pytest.raises(UnsupportedEnsembleError, match="65 leaves, more than 64"):
        open_model("quickscorer", data, FEATURES)


@pytest.mark.parametrize("leaves", [20, 64])
def test_a_single_decision_tree_is_an_ensemble_of_one(leaves):
    """Nothing in it but the sum differs."""
    classifier = bagged(DecisionTreeClassifier, max_leaf_nodes=leaves)
    rows = rows_of(9, 300)

    scores = open_model("quickscorer", as_onnx(classifier), FEATURES).score(rows)

    assert np.abs(scores - classifier.predict_proba(rows)[:, 1]).max() <= 1e-5


def test_a_file_of_more_than_one_node_is_refused():
    """What comes after the trees could change the score."""
    data = as_onnx(bagged(GradientBoostingClassifier, n_estimators=5))

    with pytest.raises(UnsupportedEnsembleError, match="not a single TreeEnsembleClassifier"):
        open_model("quickscorer", data, FEATURES)


def test_three_classes_are_refused():
    """A payment is a fraud or it is none."""
    rows = rows_of(0, 500)
    classifier = HistGradientBoostingClassifier(max_iter=3).fit(rows, np.arange(500) % 3)

    with pytest.raises(UnsupportedEnsembleError):
        open_model("quickscorer", as_onnx(classifier), FEATURES)
