"""
Settings and a model bundle become the steps of the pipeline: for the group's members, and for
those who read the log again beside the group.
"""

import hashlib
import time
from dataclasses import dataclass

import schemas
from consumer import __version__
from consumer.adapters.model_bundle import Bundle
from consumer.adapters.snapshots import SnapshotStore
from consumer.core.alerts import AlertEncoder
from consumer.core.dead_letter import DeadLetters
from consumer.core.decide import Explainer
from consumer.core.decode import PaymentDecoder
from consumer.core.encode import PredictionEncoder
from consumer.core.features import FeatureStep
from consumer.core.labels import TerminalFrauds
from consumer.core.snapshot import Contract
from consumer.core.state import VelocityState
from consumer.pipeline import Labels, Pipeline, Predictions, Sink
from consumer.settings import Settings
from consumer.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Parts:
    """What the configuration and the model decide, and what the steps remember."""

    settings: Settings
    bundle: Bundle
    decoder: PaymentDecoder
    state: VelocityState
    frauds: TerminalFrauds
    predictions: Predictions


def assemble(settings: Settings, bundle: Bundle) -> Parts:
    """Return the parts, with nothing in state and no label known."""
    return Parts(
        settings,
        bundle,
        PaymentDecoder(
            schemas.versions("transaction"),
            max_bytes=settings.input.max_value_bytes,
            furthest_ahead_seconds=settings.input.max_future,
            refuse_card_numbers=settings.input.refuse_card_numbers,
            registry=schemas.registry_headers(settings.input.schema_ids),
            attributes=bundle.feature_set.attributes,
        ),
        VelocityState(
            bundle.feature_set.plan,
            micros(settings.windows.grace),
            micros(settings.alerts.window),
            settings.state.max_bytes,
        ),
        TerminalFrauds(schemas.versions("label"), settings.labels.settle),
        PredictionEncoder(settings.topics.predictions, settings.topics.input, bundle.identity),
    )


def snapshot_store(settings: Settings) -> SnapshotStore | None:
    """Return where snapshots are kept, None if they are not. Raises ConfigError."""
    if not settings.state.url:
        return None
    return SnapshotStore(settings.state.url, settings.group, settings.topics.input)


def state_contract(settings: Settings, bundle: Bundle) -> Contract:
    """Return what the numbers in a state of this configuration and model mean."""
    versions = schemas.versions("transaction")
    fingerprints = {schemas.single_object_header(version)[2:].hex() for version in versions}
    fingerprints |= {header.hex() for header in schemas.registry_headers(settings.input.schema_ids)}
    return Contract(
        feature_set=bundle.feature_set.name,
        windows=dict(bundle.feature_set.windows),
        grace=micros(settings.windows.grace),
        alert_window=micros(settings.alerts.window),
        schemas=sorted(fingerprints),
    )


def scorer_id(settings: Settings, bundle: Bundle) -> str:
    """Return a word for what decides on alerts: who has another one may decide otherwise."""
    identity = bundle.identity
    said = (identity.name, identity.version, identity.policy_version, settings.alerts.window)
    return hashlib.sha256(repr(said).encode()).hexdigest()[:16]


def make_pipeline(parts: Parts, labels: Labels, sink: Sink, telemetry: Telemetry) -> Pipeline:
    """Return the data path over these parts; `labels` must feed the parts' frauds."""
    settings, bundle = parts.settings, parts.bundle
    topics = settings.topics
    return Pipeline(
        decoder=parts.decoder,
        labels=labels,
        features=FeatureStep(bundle.feature_set, parts.state, parts.frauds),
        model=bundle.model,
        policy=bundle.policy,
        explainer=Explainer(bundle.feature_set, bundle.genuine_medians),
        predictions=parts.predictions,
        alerts=AlertEncoder(
            topics.alerts, topics.input, bundle.identity, micros(settings.alerts.window)
        ),
        dead_letters=DeadLetters(
            settings.dead_letter_topic,
            __version__,
            refuse_card_numbers=settings.input.refuse_card_numbers,
        ),
        sink=sink,
        state=parts.state,
        telemetry=telemetry,
        clock=lambda: time.time_ns() // 1_000,
    )


def micros(seconds: float) -> int:
    """Return seconds as whole microseconds."""
    return round(seconds * 1_000_000)
