"""
Compile or load every kernel before the group is joined, so that the first batch is a quick one.
"""

import uuid
from typing import Any, Final

import fastavro
import numpy as np

import schemas
from consumer.core.alerts import AlertEncoder
from consumer.core.avro_encoder import encoded
from consumer.core.batch import LabelsKnown
from consumer.core.decide import Explainer, Policy, decide
from consumer.core.decode import PaymentDecoder
from consumer.core.encode import PredictionEncoder
from consumer.core.feature_sets import FeatureSet
from consumer.core.features import FeatureStep
from consumer.core.labels import TerminalFrauds
from consumer.core.model import Model
from consumer.core.score import score
from consumer.core.snapshot import StateCopy
from consumer.core.state import VelocityState
from consumer.records import Records

_TIME: Final = 1_577_836_800_000_000  # 2020-01-01
_ID, _OTHER_ID = (str(uuid.UUID(int=k)) for k in range(2))
_MANY: Final = 1_025


def warm_up(
    decoder: PaymentDecoder, feature_set: FeatureSet, model: Model, explainer: Explainer,
    predictions: PredictionEncoder, alerts: AlertEncoder,
) -> None:  # fmt: skip
    """
    Carry made-up payments through every step, over a state that is then thrown away.

    They are of more cards and terminals than fresh tables have room for, so that these grow.
    """
    frauds = TerminalFrauds([schemas.load("label")], settle_seconds=0)
    names = [str(k) for k in range(_MANY)]
    claims = [{**_LABEL, "label_id": k, "terminal_id": k, "transaction_id": k} for k in names]
    again = {**claims[0], "label_id": _OTHER_ID, "published_at": _TIME - 1}
    frauds.add([_value("label", claim) for claim in (*claims, again)], [0] * (_MANY + 1))
    state = VelocityState(feature_set.plan, grace=0, alert_window=1)
    state.begin(0)
    copy = StateCopy(state.tables(0))
    zeros = np.zeros(_MANY, np.int64)
    records = Records(
        "",
        [_value("transaction", {**_PAYMENT, "card_id": name}) for name in names],
        [name.encode() for name in names],
        zeros,
        np.arange(_MANY),
        zeros - 1,
        np.ones(_MANY, np.bool_),
        lambda _: [],
    )
    events, _ = decoder.decode(records)
    events, rows = FeatureStep(feature_set, state, frauds).measure(events)
    probabilities = score(rows.values, model)
    policy = Policy("", challenge=0, review=0, decline=0)
    decisions = decide(rows.values, probabilities, policy, explainer, model)
    alerts.raise_alerts(events, rows, decisions, state, np.zeros(len(decisions.flagged), np.bool_))
    predictions.encode(events, rows, decisions, LabelsKnown((0,), stale=False), records.keys, 0)
    state.roll_back()
    for pages in copy.take():
        pages.gather().copy_to(np.zeros(pages.reach, np.int64))
        pages.copy_to(np.zeros(pages.reach, np.int64))
    state.empty_tables()["card"].take_over(*state.tables(0)["card"].tables)


def _value(name: str, fields: dict[str, Any]) -> bytes:
    header, schema = _SCHEMAS[name]
    return header + encoded(schema, fields)


_SCHEMAS: Final = {
    name: (
        schemas.single_object_header(schemas.load(name)),
        fastavro.parse_schema(schemas.load(name)),
    )
    for name in ("transaction", "label")
}


_COMMON: Final[dict[str, Any]] = {
    "transaction_id": "payment", "card_id": "card", "terminal_id": "terminal",
    "event_time": _TIME, "amount_minor": 1, "currency": "EUR",
}  # fmt: skip
_PAYMENT: Final = {**_COMMON, "event_id": _ID}
_LABEL: Final = {
    **_COMMON, "label_id": _ID, "verdict": "FRAUD", "reported_at": _TIME, "published_at": _TIME,
}  # fmt: skip
