"""
What a model bundle says of itself; the trainer writes it, the consumer holds the bundle to it.
"""

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

MANIFEST_FORMAT: Final = 1
MANIFEST_FILE: Final = "manifest.json"

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelFile(_Part):
    """The one file that holds the model: its name in the folder, its size and its digest."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    size_bytes: int = Field(gt=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Thresholds(_Part):
    """
    Probabilities from which a payment is challenged, reviewed, declined; they rise in that order.
    """

    challenge: Probability
    review: Probability
    decline: Probability


class GoldenRow(_Part):
    """An input row and the probability that the engine gave for it when the bundle was made."""

    features: list[float]
    probability: Probability


class Histogram(_Part):
    """How a feature was distributed in training: `counts` between `edges`, for drift."""

    edges: list[float]
    counts: list[int]


class Manifest(_Part):
    """A model bundle's contract. `feature_names` are in the order of a row."""

    format: Literal[1] = MANIFEST_FORMAT
    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    engine: Literal["quickscorer", "onnxruntime", "sklearn"]
    model: ModelFile
    feature_set: str
    feature_names: list[str]
    thresholds: Thresholds
    genuine_medians: list[float]
    golden: list[GoldenRow] = Field(min_length=1)
    reference: dict[str, Histogram]
    training: dict[str, str | int | float]
    metrics: dict[str, float]
    sklearn_version: str


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What a prediction says of its origin."""

    name: str
    version: str
    feature_set: str
    feature_count: int
    policy_version: str
