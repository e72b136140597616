"""
Load a model bundle: nothing in it is believed before it is checked, and nothing runs unhashed.

In this order: signature where one is asked for, manifest, size and digest of the very bytes that
are then loaded, feature contract, engine, golden rows. Each file is read once, so that none can be
exchanged between its check and its use.
"""

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
import pydantic
from numpy.typing import NDArray

from consumer.adapters.signatures import require_signature, write_signature
from consumer.core.decide import Policy
from consumer.core.engines import open_model
from consumer.core.feature_sets import FEATURE_SETS, FeatureSet
from consumer.core.manifest import MANIFEST_FILE, Manifest, ModelIdentity
from consumer.core.model import Model
from consumer.core.quickscorer import UnsupportedEnsembleError
from consumer.errors import ModelError

LARGEST_MANIFEST_BYTES: Final = 16 * 2**20
LARGEST_MODEL_BYTES: Final = 2**30
GOLDEN_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model that kept every promise of its manifest."""

    manifest: Manifest
    model: Model
    feature_set: FeatureSet

    @property
    def policy(self) -> Policy:
        """The thresholds picked when the model was trained."""
        thresholds = self.manifest.thresholds
        return Policy(
            f"{self.manifest.name}-{self.manifest.version}",
            thresholds.challenge, thresholds.review, thresholds.decline,
        )  # fmt: skip

    @property
    def identity(self) -> ModelIdentity:
        """What predictions say of the model."""
        return ModelIdentity(
            self.manifest.name, self.manifest.version, self.manifest.feature_set,
            len(self.manifest.feature_names), self.policy.version,
        )  # fmt: skip

    @property
    def genuine_medians(self) -> NDArray[np.float32]:
        """Median of each feature over genuine payments."""
        return np.array(self.manifest.genuine_medians, np.float32)


def load_bundle(folder: Path, *, allow_pickle: bool, public_key: str = "") -> Bundle:
    """
    Load and check the bundle; with `public_key`, a PEM file, only if that key signed it.

    Raises ModelError, in one sentence that says what and where, and ConfigError for a bad key.
    """
    text = _manifest_bytes(folder / MANIFEST_FILE)
    if public_key:
        require_signature(folder, text, Path(public_key))
    manifest = _manifest(folder / MANIFEST_FILE, text)
    path = folder / manifest.model.name
    data = _model_bytes(path, manifest)
    feature_set = _feature_set(folder, manifest)
    model = _open(path, data, manifest, allow_pickle=allow_pickle)
    _reproduce_golden_rows(folder, manifest, model)
    return Bundle(manifest, model, feature_set)


def sign_bundle(folder: Path, private_key: Path, passphrase: bytes | None) -> Path:
    """
    Sign a bundle whose model file is the one that its manifest states; return the signature's file.

    Nothing of the model runs. Raises ModelError for the bundle, ConfigError for the key.
    """
    text = _manifest_bytes(folder / MANIFEST_FILE)
    manifest = _manifest(folder / MANIFEST_FILE, text)
    _model_bytes(folder / manifest.model.name, manifest)
    return write_signature(folder, text, private_key, passphrase)


def _manifest_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ModelError(
            f"no model bundle at {path.parent}: {error.strerror}; train one with"
            " `fraudstream train`, or set model.path"
        ) from error
    if len(text) > LARGEST_MANIFEST_BYTES:
        raise ModelError(f"{path} is larger than {LARGEST_MANIFEST_BYTES} bytes")
    return text


def _manifest(path: Path, text: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{path} is no manifest of this build: {where}: {first['msg']}") from error


def _model_bytes(path: Path, manifest: Manifest) -> bytes:
    expected = manifest.model
    if expected.size_bytes > LARGEST_MODEL_BYTES:
        raise ModelError(f"{path} would be larger than {LARGEST_MODEL_BYTES} bytes")
    try:
        with path.open("rb") as file:
            data = file.read(expected.size_bytes + 1)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) != expected.size_bytes:
        raise ModelError(f"{path} is not the {expected.size_bytes} bytes that its manifest states")
    digest = hashlib.sha256(data).hexdigest()
    if digest != expected.sha256:
        raise ModelError(f"{path} has sha256 {digest}, its manifest states {expected.sha256}")
    return data


def _feature_set(folder: Path, manifest: Manifest) -> FeatureSet:
    feature_set = FEATURE_SETS.get(manifest.feature_set)
    if feature_set is None:
        raise ModelError(
            f"{folder} wants feature set {manifest.feature_set!r}; this build has"
            f" {', '.join(sorted(FEATURE_SETS))}"
        )
    missing = [name for name in manifest.feature_names if name not in feature_set.names]
    if missing:
        raise ModelError(f"{folder} wants {missing}, which {feature_set.name} does not have")
    if tuple(manifest.feature_names) != feature_set.names:
        raise ModelError(
            f"{folder} lists the features of {feature_set.name} incompletely or in another order"
        )
    lengths = {len(manifest.genuine_medians), *(len(row.features) for row in manifest.golden)}
    if lengths != {len(feature_set.names)}:
        raise ModelError(f"{folder} has rows that are not {len(feature_set.names)} features wide")
    thresholds = manifest.thresholds
    if not thresholds.challenge <= thresholds.review <= thresholds.decline:
        raise ModelError(f"{folder} has thresholds that do not rise from challenge to decline")
    return feature_set


def _open(path: Path, data: bytes, manifest: Manifest, *, allow_pickle: bool) -> Model:
    if manifest.engine == "sklearn" and not allow_pickle:
        raise ModelError(
            f"{path} is a pickle, which runs code as it loads; use ONNX, or set"
            " model.allow_pickle = true if you made this file"
        )
    if manifest.engine == "sklearn" and manifest.sklearn_version != version("scikit-learn"):
        raise ModelError(
            f"{path} was pickled by scikit-learn {manifest.sklearn_version}, here is"
            f" {version('scikit-learn')}: a pickle is only good for the version that made it"
        )
    try:
        return open_model(manifest.engine, data, len(manifest.feature_names))
    except UnsupportedEnsembleError as error:
        raise ModelError(
            f"{path} does not fit engine quickscorer: {error}; set engine onnxruntime in its"
            " manifest"
        ) from error
    except Exception as error:  # engines raise whatever they like on a bad file
        raise ModelError(f"{path} cannot be loaded by {manifest.engine}: {_line(error)}") from error


def _line(error: Exception) -> str:
    """Return what a library says of a fault, which may be a page, on one line."""
    return " ".join(str(error).split())


def _reproduce_golden_rows(folder: Path, manifest: Manifest, model: Model) -> None:
    rows = np.array([row.features for row in manifest.golden], np.float32)
    expected = np.array([row.probability for row in manifest.golden])
    try:
        actual = model.score(rows)
    except Exception as error:  # as on loading
        raise ModelError(f"{folder} cannot score its own golden rows: {_line(error)}") from error
    difference = np.abs(actual - expected)
    if not (difference <= GOLDEN_TOLERANCE).all():
        worst = int(np.nanargmax(np.where(np.isfinite(difference), difference, np.inf)))
        raise ModelError(
            f"{folder} gives {actual[worst]:.9f} for golden row {worst}, its manifest states"
            f" {expected[worst]:.9f}: the file, the engine or the kernels are not those it was made"
            " with"
        )
