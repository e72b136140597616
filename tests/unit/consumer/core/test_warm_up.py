import numpy as np

import schemas
from consumer.core.alerts import AlertEncoder
from consumer.core.decide import Explainer
from consumer.core.decode import PaymentDecoder
from consumer.core.encode import PredictionEncoder
from consumer.core.feature_sets import ARRIVAL_1
from consumer.core.manifest import ModelIdentity
from consumer.core.warm_up import warm_up
from tests.fakes import FixedModel


def test_one_payment_goes_through_every_step():
    """The model scores it, and once more for its reasons; nothing of it stays."""
    model = FixedModel(lambda _: 0.5)
    width = len(ARRIVAL_1.names)
    identity = ModelIdentity("m", "v", ARRIVAL_1.name, width, "p")

    warm_up(
        PaymentDecoder([schemas.load("transaction")]),
        ARRIVAL_1,
        model,
        Explainer(ARRIVAL_1, np.zeros(width, np.float32)),
        PredictionEncoder("", "", identity),
        AlertEncoder("", "", identity, 1),
    )

    assert model.calls == 2
