"""The whole pipeline over fakes: a fixed model, a recording sink, and state of its own."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

import schemas
from consumer.core.alerts import AlertEncoder
from consumer.core.batching import BatchControl
from consumer.core.dead_letter import DeadLetters
from consumer.core.decide import Explainer, Policy
from consumer.core.decode import PaymentDecoder
from consumer.core.encode import PredictionEncoder
from consumer.core.feature_sets import ARRIVAL_1, FeatureSet
from consumer.core.features import FeatureStep
from consumer.core.labels import TerminalFrauds
from consumer.core.manifest import ModelIdentity
from consumer.core.state import VelocityState
from consumer.loop import Loop
from consumer.pipeline import Pipeline
from consumer.records import Records
from consumer.telemetry import Telemetry
from tests.builders import DAY, decoded
from tests.fakes import FakeSource, FixedLabels, FixedModel, ManualClock, RecordingSink, taken

WIDTH = len(ARRIVAL_1.names)
AMOUNT = ARRIVAL_1.names.index("amount")
PAYMENTS_30D = ARRIVAL_1.names.index("card_payments_30d")


def by_amount(row: Any) -> float:
    """Score a payment by its amount alone: 0 for nothing, 1 for the largest step of the grid."""
    return float(row[AMOUNT]) / 254


class Rig:
    """One instance's pipeline and loop; `partitions` are begun empty."""

    def __init__(
        self,
        model: FixedModel | None = None,
        *,
        partitions: int = 3,
        feature_set: FeatureSet = ARRIVAL_1,
        alert_window: int = DAY,
        max_bytes: int = 0,
        **begin: int,
    ) -> None:
        width = len(feature_set.names)
        identity = ModelIdentity("fixed", "v1", feature_set.name, width, "fixed-v1")
        self.registry = CollectorRegistry()
        self.telemetry = Telemetry(self.registry, "group", "transactions.raw")
        self.state = VelocityState(feature_set.plan, DAY, alert_window, max_bytes)
        for partition in range(partitions):
            self.state.begin(partition, **begin)
        self.frauds = TerminalFrauds([schemas.load("label")], settle_seconds=0)
        self.sink = RecordingSink()
        self.labels = FixedLabels()
        self.clock = ManualClock(1_600_000_000_000_000)
        self.pipeline = Pipeline(
            decoder=PaymentDecoder(
                [schemas.load("transaction")], attributes=feature_set.attributes
            ),
            labels=self.labels,
            features=FeatureStep(feature_set, self.state, self.frauds),
            model=model or FixedModel(by_amount),
            policy=Policy("fixed-v1", challenge=0.25, review=0.5, decline=0.75),
            explainer=Explainer(feature_set, np.zeros(width, np.float32)),
            predictions=PredictionEncoder("transactions.scored", "transactions.raw", identity),
            alerts=AlertEncoder("fraud.alerts", "transactions.raw", identity, alert_window),
            dead_letters=DeadLetters("transactions.raw-dlt", "test"),
            sink=self.sink,
            state=self.state,
            telemetry=self.telemetry,
            clock=self.clock,
        )

    def process(self, records: Records, *cuts: int) -> None:
        """Carry the records in as many batches as the cuts make."""
        bounds = [0, *cuts, len(records)]
        for begin, end in pairwise(bounds):
            self.pipeline.process(taken(records, range(begin, end)))

    def run(
        self,
        log: Records,
        batch: int = 100,
        *,
        outage_limit_seconds: float = 60.0,
        at_least: int = 0,
        while_: Callable[[], bool] = lambda: True,
    ) -> FakeSource:
        """Let the loop run until the log is through, and for so many polls at least."""
        source = FakeSource(log, batch)
        self.loop = Loop(
            source,  # type: ignore[arg-type]
            self.pipeline,
            self.state,
            BatchControl(batch, 0.0),
            self.telemetry,
            outage_limit_seconds,
        )
        self.loop.run(lambda: (source.has_more or source.polls < at_least) and while_())
        return source

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """All predictions committed, in order, read by fastavro."""
        return [decoded("prediction", sent.value) for sent in self.sink.to("transactions.scored")]

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """All alerts committed."""
        return [decoded("alert", sent.value) for sent in self.sink.to("fraud.alerts")]

    @property
    def dead_letters(self) -> dict[tuple[int, int], str]:
        """The reason of each record in the dead letters, by partition and offset."""
        facts = [
            {name.rpartition(".")[2]: value for name, value in sent.headers}
            for sent in self.sink.to("transactions.raw-dlt")
        ]
        return {
            (int(each["partition"]), int(each["offset"])): each["reason"].decode() for each in facts
        }

    def value(self, name: str, **labels: str) -> float:
        """Return a metric, 0 where it was never touched."""
        return self.registry.get_sample_value(f"fraudstream_{name}", labels) or 0.0


def without(prediction: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the prediction without some fields."""
    return {name: value for name, value in prediction.items() if name not in names}
