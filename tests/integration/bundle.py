"""A model for this traffic: it flags large payments, and those at terminals with frauds."""

from pathlib import Path

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from consumer.core.feature_sets import ARRIVAL_1, FeatureSet
from consumer.core.manifest import Thresholds
from tests.integration.history import decode
from tests.integration.oracle import DAY, Partition
from tests.integration.traffic import Traffic
from training.bundle import Trained, write_bundle


def write_model(folder: Path, feature_set: FeatureSet = ARRIVAL_1, seed: int = 0) -> None:
    """
    Train on payments like those that the tests send; about one in ten reaches review. Models of
    other seeds give other scores.
    """
    traffic, history = Traffic(99), Partition(DAY, feature_set=feature_set.name)
    rng = np.random.default_rng(seed)
    rows = np.empty((4_000, len(feature_set.names)), np.float32)
    for row in rows:
        payment = decode("transaction", traffic.payment().value)
        row[:], *_ = history.observe(payment, np.sort(rng.poisson(1.0, 3)).tolist())
    frauds = rows[:, feature_set.names.index("terminal_frauds_7d")]
    is_fraud = rows[:, 0] + 20 * frauds + 20 * rng.normal(size=len(rows)) > 100
    classifier = HistGradientBoostingClassifier(
        max_iter=20, max_leaf_nodes=31, early_stopping=False, random_state=0
    )
    with threadpool_limits(1):  # threads wait for each other longer than rows this few take
        classifier.fit(rows, is_fraud)
    thresholds = Thresholds(challenge=0.2, review=0.4, decline=0.8)
    trained = Trained(classifier, rows, is_fraud, thresholds, {"payments": len(rows)}, {})
    write_bundle(folder, trained, feature_set, "integration", "auto")
