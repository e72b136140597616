import importlib
import multiprocessing
import pkgutil
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from numba.core.registry import CPUDispatcher

import consumer.core
import schemas
from consumer.adapters.model_bundle import load_bundle
from consumer.core.alerts import AlertEncoder
from consumer.core.decide import Explainer
from consumer.core.decode import PaymentDecoder
from consumer.core.encode import PredictionEncoder
from consumer.core.feature_sets import ARRIVAL_1, ARRIVAL_4
from consumer.core.warm_up import warm_up
from tests.builders import DAY, JANUARY, encoded, label, payment, payment_records, tiny_bundle
from tests.unit.consumer.rig import Rig


@pytest.mark.parametrize("feature_set", [ARRIVAL_1, ARRIVAL_4], ids=["arrival-1", "arrival-4"])
def test_no_kernel_is_compiled_once_the_stream_is_live(tmp_path, feature_set):
    """In a process of its own: other tests have compiled for types of theirs."""
    tiny_bundle(tmp_path, feature_set=feature_set)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as child:
        warmed, live = child.submit(_compiled, tmp_path).result()

    assert sum(map(len, warmed.values())) >= 10
    assert live == warmed


def _compiled(folder):
    """Return the signatures compiled by the warm-up, and those after a stream of all sorts."""
    bundle = load_bundle(folder, allow_pickle=False)
    warm_up(
        PaymentDecoder([schemas.load("transaction")], attributes=bundle.feature_set.attributes),
        bundle.feature_set, bundle.model, Explainer(bundle.feature_set, bundle.genuine_medians),
        PredictionEncoder("p", "i", bundle.identity), AlertEncoder("a", "i", bundle.identity, DAY),
    )  # fmt: skip
    warmed = _signatures()
    rig = Rig(bundle.model, feature_set=bundle.feature_set)
    for number in range(2_000):
        fields = label(number, terminal_id=str(number), published_at=JANUARY)
        rig.frauds.add([encoded("label", fields)], [0])
    for size in (1, 2, 50, 1_200):
        _stream(rig, size)
        rig.state.roll_back()
    return warmed, _signatures()


def _stream(rig, size):
    values = [
        payment(k, card_id=f"card-{k % 700}", event_time=JANUARY + k * 1_000_000 - k % 7 * DAY)
        for k in range(size)
    ]
    for bad in range(5, size, 50):
        values[bad] = b"?"
    half = np.arange(size) % 2 == 1
    rig.pipeline.process(payment_records(values, live=False, offsets=range(size)))
    rig.pipeline.process(payment_records(values, live=half, offsets=range(size), partitions=half))
    rig.pipeline.process(payment_records(values, offsets=range(size)))


def _signatures():
    """Return what every kernel of the core is compiled for."""
    found = {}
    for module in pkgutil.iter_modules(consumer.core.__path__):
        if module.name.endswith("_kernel"):
            kernels = vars(importlib.import_module(f"consumer.core.{module.name}"))
            for name, kernel in kernels.items():
                if isinstance(kernel, CPUDispatcher):
                    found[f"{module.name}.{name}"] = [str(each) for each in kernel.signatures]
    return found
