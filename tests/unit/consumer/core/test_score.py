import numpy as np
import pytest

from consumer.core.score import ScoreInvalidError, score
from tests.fakes import FixedModel


class Answering:
    """A model that gives the same answer whatever it is asked."""

    engine = "fixed"

    def __init__(self, answer):
        self.answer = answer

    def score(self, rows):
        return self.answer


ROWS = np.zeros((2, 3), np.float32)


def test_probabilities_come_back_in_order():
    """One for each row."""
    rows = np.array([[0.25], [0.5], [0]], np.float32)

    assert score(rows, FixedModel(lambda row: row[0])).tolist() == [0.25, 0.5, 0.0]


def test_the_ends_of_the_scale_are_probabilities():
    """0 and 1 are certain, and allowed."""
    assert score(ROWS, Answering(np.array([0.0, 1.0]))).tolist() == [0.0, 1.0]


def test_a_model_may_answer_in_float32_or_a_list():
    """The pipeline goes on in float64."""
    assert score(ROWS, Answering(np.array([0.5, 0.25], np.float32))).dtype == np.float64
    assert score(ROWS, Answering([0.5, 0.25])).tolist() == [0.5, 0.25]


def test_no_rows_are_not_asked_about():
    """Engines differ in what they make of an empty batch."""
    model = FixedModel(lambda _: 0.5)

    assert score(np.empty((0, 3), np.float32), model).shape == (0,)
    assert model.calls == 0


@pytest.mark.bad_input("f6")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.01, 1.01])
@pytest.mark.parametrize("row", [0, 1])
def test_what_is_no_probability_is_refused(bad, row):
    """The caller finds the row by replaying the batch record by record."""
    answer = np.array([0.5, 0.5])
    answer[row] = bad

    with pytest.raises(ScoreInvalidError, match="outside 0 to 1, or NaN"):
        score(ROWS, Answering(answer))


@pytest.mark.parametrize(("answer", "probability"), [(1 + 1e-7, 1.0), (-1e-7, 0.0)])
def test_what_rounding_put_beside_the_scale_is_put_on_it(answer, probability):
    """Leaves of float32 that sum to one may miss it by a hair; their payment is no poison."""
    assert score(ROWS, Answering(np.full(2, answer))).tolist() == [probability] * 2


@pytest.mark.bad_input("f6")
@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), (2, 2), ()])
def test_an_answer_of_another_shape_is_refused(shape):
    """It could not be told which score is whose."""
    with pytest.raises(ScoreInvalidError, match="2 rows gave"):
        score(ROWS, Answering(np.full(shape, 0.5)))


def test_an_answer_that_is_no_number_is_refused():
    """An array of objects holds whatever a model put there."""
    with pytest.raises((ScoreInvalidError, TypeError, ValueError)):
        score(ROWS, Answering(np.array(["high", None], object)))
