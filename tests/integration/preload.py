"""
Imported by multiprocessing's fork server alone: what it has loaded, each forked consumer has.

Starting a consumer takes 4 s of imports and kernels, which a suite cannot pay for each kill.
"""

import os
from pathlib import Path

import schemas
from consumer import app, cli  # noqa: F401 - importing them is the purpose
from consumer.adapters.model_bundle import load_bundle
from consumer.core.alerts import AlertEncoder
from consumer.core.decide import Explainer
from consumer.core.decode import PaymentDecoder
from consumer.core.encode import PredictionEncoder
from consumer.core.warm_up import warm_up

_bundle = load_bundle(Path(os.environ["FRAUDSTREAM_TEST_BUNDLE"]), allow_pickle=False)
warm_up(
    PaymentDecoder([schemas.load("transaction")]),
    _bundle.feature_set,
    _bundle.model,
    Explainer(_bundle.feature_set, _bundle.genuine_medians),
    PredictionEncoder("", "", _bundle.identity),
    AlertEncoder("", "", _bundle.identity, alert_window=1),
)
