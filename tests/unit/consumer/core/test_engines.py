import io

import joblib
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from consumer.core.engines import ENGINES, OnnxRuntimeModel, SklearnModel, open_model
from training.bundle import as_onnx

FEATURES = 4


def rows_of(seed, n=200):
    return np.random.default_rng(seed).gamma(2, 5, (n, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module")
def logistic():
    rows = rows_of(0)
    return LogisticRegression().fit(rows, rows[:, 0] > 10)


@pytest.fixture(scope="module")
def boosting():
    rows = rows_of(0, 2_000)
    return HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(rows, rows[:, 0] > 10)


def pickled(classifier):
    out = io.BytesIO()
    joblib.dump(classifier, out)
    return out.getvalue()


def onnx_bytes(nodes, initializers=(), opset_domains=(), functions=()):
    """Return a file that makes [1 - p, p] of its input's first two columns, by these nodes."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, 2])],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in opset_domains)]
    model = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    model.ir_version = 8
    return model.SerializeToString()


def outside(tensor):
    """Return the tensor as one whose data lie in another file."""
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="../../etc/passwd")
    return tensor


def zeros(name):
    return numpy_helper.from_array(np.zeros(2, np.float32), name)


def test_onnxruntime_scores_any_classifier(logistic):
    """The probability of the second class, in float64."""
    rows = rows_of(1)

    scores = open_model("onnxruntime", as_onnx(logistic), FEATURES).score(rows)

    assert scores.dtype == np.float64
    assert np.abs(scores - logistic.predict_proba(rows)[:, 1]).max() <= 1e-5


def test_onnxruntime_scores_a_row_the_same_alone_and_in_any_batch(boosting):
    """One thread: with two, the sum over trees was cut by the size of the batch."""
    model = OnnxRuntimeModel(as_onnx(boosting))
    rows = rows_of(2, 300)

    together = model.score(rows)

    alone = np.concatenate([model.score(row[None]) for row in rows[:50]])
    assert alone.tobytes() == together[:50].tobytes()
    assert model.score(rows[:7]).tobytes() == together[:7].tobytes()


def test_sklearn_scores_what_was_pickled(boosting):
    """For models that ONNX cannot take."""
    rows = rows_of(3)

    scores = open_model("sklearn", pickled(boosting), FEATURES).score(rows)

    assert scores.dtype == np.float64
    assert scores.tolist() == boosting.predict_proba(rows)[:, 1].tolist()


def test_sklearn_scores_a_row_the_same_alone_and_in_any_batch(boosting):
    """One thread here as well."""
    model = SklearnModel(pickled(boosting))
    rows = rows_of(4, 60)

    together = model.score(rows)

    alone = np.concatenate([model.score(row[None]) for row in rows])
    assert alone.tobytes() == together.tobytes()


@pytest.mark.parametrize("engine", ENGINES)
def test_each_engine_says_its_name(engine, boosting):
    """Metrics and predictions show which one scores."""
    data = pickled(boosting) if engine == "sklearn" else as_onnx(boosting)

    assert open_model(engine, data, FEATURES).engine == engine


@pytest.mark.parametrize("engine", ["quickscorer", "onnxruntime"])
@pytest.mark.parametrize("data", [b"", b"\x80\x05", b"not a model", b"\x00" * 1_000])
def test_a_file_that_is_no_model_is_refused(engine, data):
    """With whatever error the library has for it."""
    with pytest.raises(Exception):  # noqa: B017, PT011 - the libraries decide which
        open_model(engine, data, FEATURES)


IDENTITY = helper.make_node("Identity", ["x"], ["p"])


def test_a_file_of_plain_operators_is_opened():
    """The other tests' files differ from this one in a single thing."""
    data = onnx_bytes([helper.make_node("Add", ["x", "c"], ["p"])], [zeros("c")])

    assert OnnxRuntimeModel(data).score(np.array([[0.25, 0.75]], np.float32)).tolist() == [0.75]
    assert open_model("onnxruntime", data, 2)


def foreign():
    return helper.make_node("FusedGelu", ["x"], ["p"], domain="com.microsoft")


def choice(then, initializers=()):
    """Return a node whose branches are these nodes."""
    out = helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, 2])
    branches = [helper.make_graph([then], name, [], [out], initializers) for name in ("t", "e")]
    return helper.make_node("If", ["yes"], ["p"], then_branch=branches[0], else_branch=branches[1])


YES = numpy_helper.from_array(np.array(True), "yes")


@pytest.mark.parametrize(
    "data",
    [
        onnx_bytes([foreign()], opset_domains=["com.microsoft"]),
        onnx_bytes([choice(foreign())], [YES], opset_domains=["com.microsoft"]),
        onnx_bytes(
            [helper.make_node("Mine", ["x"], ["p"], domain="ai.onnx.ml")],
            opset_domains=["ai.onnx.ml"],
            functions=[
                helper.make_function(
                    "ai.onnx.ml", "Mine", ["x"], ["p"],
                    [helper.make_node("Identity", ["x"], ["p"])], [helper.make_opsetid("", 17)],
                )
            ],
        ),
    ],
    ids=["graph", "branch", "function"],
)  # fmt: skip
@pytest.mark.parametrize("engine", ["quickscorer", "onnxruntime"])
def test_operators_beyond_onnx_s_own_are_refused_wherever_they_stand(engine, data):
    """What they do is nobody's specification, and may be anybody's code."""
    with pytest.raises(ValueError, match="operators of"):
        open_model(engine, data, 2)


@pytest.mark.parametrize(
    "data",
    [
        onnx_bytes([helper.make_node("Add", ["x", "c"], ["p"])], [outside(zeros("c"))]),
        onnx_bytes([
            helper.make_node("Constant", [], ["c"], value=outside(zeros("c"))),
            helper.make_node("Add", ["x", "c"], ["p"]),
        ]),
        onnx_bytes(
            [choice(helper.make_node("Add", ["x", "c"], ["p"]), [outside(zeros("c"))])], [YES]
        ),
    ],
    ids=["initializer", "constant", "branch"],
)  # fmt: skip
@pytest.mark.parametrize("engine", ["quickscorer", "onnxruntime"])
def test_weights_in_another_file_are_refused_wherever_they_are_named(engine, data):
    """The digest is of one file: nothing outside it was checked."""
    with pytest.raises(ValueError, match="another file"):
        open_model(engine, data, 2)


def test_the_files_of_these_tests_are_what_they_claim():
    """Each is valid ONNX but for what it is refused for."""
    onnx.checker.check_model(
        onnx_bytes([choice(helper.make_node("Identity", ["x"], ["p"]))], [YES])
    )
    onnx.checker.check_model(onnx_bytes([IDENTITY]))


def shaped(*dims):
    """Return a constant tensor of dimensions, to be a shape."""
    return numpy_helper.from_array(np.array(dims, np.int64), "shape")


@pytest.mark.parametrize(
    "data",
    [
        onnx_bytes([helper.make_node("ConstantOfShape", ["shape"], ["p"])], [shaped(2**20, 2**20)]),
        onnx_bytes([helper.make_node("Expand", ["x", "shape"], ["p"])], [shaped(2**40, 1)]),
        onnx_bytes([helper.make_node("Tile", ["x", "shape"], ["p"])], [shaped(1, 2**40)]),
        onnx_bytes(
            [helper.make_node("Identity", ["x"], ["p"])],
            [onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[2**20, 2**20])],
        ),
    ],
    ids=["made", "expanded", "tiled", "stated"],
)
def test_tensors_of_absurd_size_are_refused(data):
    """Before anything of the model runs: a few bytes may ask for all memory."""
    with pytest.raises(ValueError, match=r"a tensor of \d{11,} elements"):
        open_model("onnxruntime", data, 3)


@pytest.mark.parametrize("operator", ["Loop", "Scan"])
def test_loops_are_refused(operator):
    """Nobody can say how long they take."""
    with pytest.raises(ValueError, match=f"uses {operator}, which may go on for ever"):
        open_model("onnxruntime", onnx_bytes([helper.make_node(operator, ["x"], ["p"])]), 3)


@pytest.mark.parametrize("operator", ["RandomNormalLike", "RandomUniformLike", "Multinomial"])
def test_chance_is_refused(operator):
    """A replay could not give the same scores."""
    with pytest.raises(ValueError, match="would not get the same score"):
        open_model("onnxruntime", onnx_bytes([helper.make_node(operator, ["x"], ["p"])]), 3)
