import pytest

from consumer.adapters.kafka_clients import reader_config
from consumer.adapters.label_log import fold_labels
from consumer.adapters.log_reader import LogReader
from consumer.adapters.log_source import Stretch
from consumer.adapters.model_bundle import load_bundle
from consumer.assembly import assemble
from consumer.log_fold import KeptOutputs, LogFold
from consumer.settings import load_settings
from tests.integration.harness import PARTITIONS
from tests.integration.history import decode, source


def folding(scene, sink):
    """Return a fold with all labels known, as a test of its own makes it."""
    settings = load_settings(scene.config("fold"))
    parts = assemble(settings, load_bundle(settings.model.path, allow_pickle=False))
    labels = LogReader(reader_config(settings, lambda _: None), settings.topics.labels)
    known = fold_labels(labels, parts.frauds)
    labels.close()
    return LogFold(parts, known, sink, most_records=64)


def judged(prediction):
    """Return what must be equal bit for bit in every run."""
    return {k: v for k, v in prediction.items() if k not in {"scored_at", "label_offsets"}}


@pytest.mark.parametrize("guarantee", ["at-least-once"])
def test_a_fold_of_the_log_answers_as_the_consumer_did(scene):
    """
    From any offset on, also one in the middle of a fold that goes on later: predictions are those
    published, dead letters are for the records that were refused.
    """
    scene.start()
    scene.upstream.send_mixed(1_500, refused_every=100)
    scene.wait_done()
    history = scene.history()
    published = {
        source(p): judged(p) for p in (decode("prediction", r.value) for r in history.predictions)
    }
    sink = KeptOutputs()
    fold = folding(scene, sink)

    for partition in range(PARTITIONS):
        end = history.ends[partition]
        middle = end // 2
        plan = fold.begin(partition, middle)
        fold.run(Stretch(partition, plan.start, middle, middle))
        assert sink.outputs == []
        fold.run(Stretch(partition, middle, middle + 10, end))
        found = [
            decode("prediction", v)
            for o in sink.outputs
            if o.topic == scene.topics.predictions
            for v in o.values
        ]
        expected = {
            place: p
            for place, p in published.items()
            if place[0] == partition and place[1] >= middle + 10
        }
        assert {source(p): judged(p) for p in found} == expected
        assert len(found) == len(expected) > 100
        sink.outputs.clear()
    fold.close()
