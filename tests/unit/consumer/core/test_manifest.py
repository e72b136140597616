import pydantic
import pytest

from consumer.core.manifest import Manifest

MANIFEST = {
    "format": 1,
    "name": "tiny",
    "version": "1",
    "engine": "quickscorer",
    "model": {"name": "model.onnx", "size_bytes": 1, "sha256": "0" * 64},
    "feature_set": "arrival-1",
    "feature_names": ["a"],
    "thresholds": {"challenge": 0.1, "review": 0.2, "decline": 0.3},
    "genuine_medians": [0.0],
    "golden": [{"features": [0.0], "probability": 0.5}],
    "reference": {"a": {"edges": [0, 1], "counts": [1]}},
    "training": {"payments": 1, "begin": "2020", "share": 0.5},
    "metrics": {"auc": 0.9},
    "sklearn_version": "1.9.1",
}


def changed(path, value):
    """Return the manifest with one value replaced, or taken out where it is ..."""
    *parents, last = path.split(".")
    copy = {key: dict(part) if isinstance(part, dict) else part for key, part in MANIFEST.items()}
    place = copy
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return copy


def test_a_whole_manifest_is_read():
    """The other cases differ from it in one value."""
    manifest = Manifest.model_validate(MANIFEST)

    assert manifest.model_dump(mode="json") == MANIFEST


def test_a_manifest_survives_its_file():
    """What the trainer writes, the consumer reads."""
    manifest = Manifest.model_validate(MANIFEST)

    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


@pytest.mark.parametrize("key", [key for key in MANIFEST if key != "format"])
def test_nothing_may_be_missing(key):
    """A manifest that says less is not one of this build."""
    with pytest.raises(pydantic.ValidationError, match=key):
        Manifest.model_validate(changed(key, ...))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 2),
        ("name", ""),
        ("version", ""),
        ("engine", "pickle"),
        ("engine", "auto"),
        ("model.name", ""),
        ("model.name", "../model.onnx"),
        ("model.name", "/etc/passwd"),
        ("model.name", "a b"),
        ("model.size_bytes", 0),
        ("model.size_bytes", -1),
        ("model.sha256", "0" * 63),
        ("model.sha256", "A" * 64),
        ("thresholds.review", 1.5),
        ("thresholds.challenge", -0.1),
        ("thresholds.decline", float("nan")),
        ("golden", []),
        ("golden", [{"features": [0.0], "probability": float("nan")}]),
        ("golden", [{"features": [0.0]}]),
        ("feature_names", "a"),
        ("unheard_of", 1),
        ("model.url", "https://"),
    ],
)
def test_what_cannot_be_meant_is_refused(path, value):
    """Closed sets, ranges, and a file name that stays in its folder."""
    with pytest.raises(pydantic.ValidationError):
        Manifest.model_validate(changed(path, value))


def test_a_manifest_does_not_change_after_it_was_checked():
    """What was checked is what is used."""
    manifest = Manifest.model_validate(MANIFEST)

    with pytest.raises(pydantic.ValidationError, match="frozen"):
        manifest.thresholds.review = 0.0
