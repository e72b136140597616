"""Every knob, declared once: parser, documentation and tests read the same fields."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, Self

import pydantic
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

import schemas
from consumer.errors import ConfigError
from consumer.kafka_properties import (
    KafkaProperties,
    exposures,
    has_password,
    read_secrets,
    redacted,
)

ENV_PREFIX: Final = "FRAUDSTREAM_"
_UNIT_SECONDS: Final = MappingProxyType({"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400})

MOST_ALERT_WINDOWS: Final = 60
"""Alert windows within the grace: the velocity state remembers a few more for each card."""

_NOT_CONFIGURATION: Final = tuple(
    f"{ENV_PREFIX}{name}" for name in ("CACHE", "CONFIG", "SLOW", "TEST_")
)

OURS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "enable.auto.commit": "offsets are committed with the outputs",
        "enable.auto.offset.store": "offsets are committed with the outputs",
        "isolation.level": "aborted records must stay unseen",
        "enable.idempotence": "retries must not repeat records",
        "max.in.flight": "a refused output must not be overtaken",
        "max.in.flight.requests.per.connection": "a refused output must not be overtaken",
        "acks": "an output counts when every in-sync replica has it",
        "request.required.acks": "an output counts when every in-sync replica has it",
        "partitioner": "a card must stay in the partition where Java clients put it",
        "transactional.id": "it is <group.id>-<instance.id>-0 and -1; set instance.id",
        "delivery.report.only.error": "the sink counts failures itself",
        "enable.partition.eof": "the source does not read it",
    }
)
"""Kafka properties that the guarantees rest on, and why they are not to be set."""


def parse_duration(value: object) -> object:
    """Turn `250ms`, `10s`, `5m`, `24h` or `30d` into seconds; plain numbers are seconds."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?\s*", value)
    if match is None:
        raise ValueError(f"{value!r} is no duration; write 250ms, 10s, 5m, 24h or 30d")
    return float(match[1]) * _UNIT_SECONDS[match[2] or "s"]


def duration_text(seconds: float) -> str:
    """Return the shortest text that parse_duration reads as that many seconds, such as `5m`."""
    fitting = [(size, unit) for unit, size in _UNIT_SECONDS.items() if size <= seconds]
    size, unit = max(fitting, default=(0.001, "ms"))
    return f"{seconds / size:g}{unit}"


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Security(_Section):
    """How brokers are reached, and where secrets come from."""

    insecure: bool = Field(
        default=False, description="Reach brokers beyond this machine without verified TLS."
    )
    core_dumps: bool = Field(
        default=False,
        description="Let the process leave core dumps, and others of its user look into it: both"
        " show payments and secrets.",
    )
    secrets_dir: str = Field(
        "",
        description="Folder of secrets, read at start: its file `sasl.password` holds that Kafka"
        " property. Empty: none.",
    )


class Topics(_Section):
    """Names of the six topics."""

    input: str = Field("transactions.raw", description="Payments to score.")
    predictions: str = Field("transactions.scored", description="One prediction for each payment.")
    alerts: str = Field("fraud.alerts", description="One alert for each card and window.")
    labels: str = Field(
        "fraud.labels", description="Reported frauds; read whole by every instance."
    )
    dead_letters: str = Field(
        "", description="What could not be scored. Empty: the input topic's name with `-dlt`."
    )
    dead_letter_audit: str = Field(
        "",
        description="What people did with dead letters. Empty: the dead-letter topic's name with"
        " `-audit`.",
    )


class Processing(_Section):
    """What is promised."""

    guarantee: Literal["at-least-once", "exactly-once"] = Field(
        "at-least-once",
        description="`exactly-once` puts outputs and offsets of a batch in one transaction.",
    )


class Instance(_Section):
    """Which one of the group this process is."""

    id: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]*$",
        description="Stable name of this slot (a StatefulSet's ordinal). Needed for exactly-once.",
    )


class Batch(_Section):
    """How records are gathered into micro-batches."""

    max_records: int = Field(5_000, ge=1, le=100_000, description="Most records in one batch.")
    max_wait: Duration = Field(
        0.010, description="Longest wait for a batch to fill; less while batches are quick."
    )


class Model(_Section):
    """Which model scores."""

    path: Path = Field(Path("model"), description="Folder of the model bundle.")
    allow_pickle: bool = Field(
        default=False, description="Load joblib bundles, which run code as they load."
    )
    public_key: str = Field(
        "",
        description="PEM file of the Ed25519 key that must have signed the bundle"
        " (`fraudstream sign`). Empty: it need not be signed.",
    )


class Windows(_Section):
    """Velocity windows; their lengths are the feature set's."""

    grace: Duration = Field(
        86_400.0,
        description="A payment older than the latest by more is scored, LATE_EVENT, and not added.",
    )


class State(_Section):
    """How velocity state is kept, beside the input topic, which is enough to rebuild it."""

    url: str = Field(
        "",
        description="Folder, or any fsspec URL (`s3://…`), for snapshots that make a start quick."
        " Empty: none are written.",
    )
    snapshot_interval: Duration = Field(
        300.0, gt=0, description="Time between two snapshots of a partition."
    )
    read_timeout: Duration = Field(
        60.0,
        gt=0,
        description="Longest wait for more of a snapshot; then the one before it is read, or the"
        " log.",
    )
    max_bytes: int = Field(
        0,
        ge=0,
        description="Most bytes of velocity state in a partition, 0 for no limit. The cards that"
        " paid longest ago go first, and STATE_COLD says so.",
    )


class Alerts(_Section):
    """When alerts are raised."""

    window: Duration = Field(
        86_400.0, gt=0, description="At most one alert for a card in each window of this length."
    )


class Labels(_Section):
    """How reported frauds are counted."""

    settle: Duration = Field(
        60.0, description="A label counts this long after its published_at, so that replays agree."
    )
    max_wait: Duration = Field(
        5.0, description="Longest wait for the label topic's end; then LABELS_STALE."
    )


class Input(_Section):
    """What a payment may look like."""

    max_value_bytes: int = Field(
        65_536, ge=64, le=2**20, description="A larger value is a dead letter, `oversize`."
    )
    max_future: Duration = Field(
        86_400.0,
        description="A payment this much later than its record is a dead letter, `future`.",
    )
    schema_ids: dict[str, str] = Field(
        {},
        description="Released schemas by the id that a registry gave them, a number or a GUID:"
        ' `{ 17 = "transaction-1" }`. Of values in its framing, no others are read.',
    )
    refuse_card_numbers: bool = Field(
        default=True,
        description="A card id that is a card number is a dead letter, `card_number`, and so is"
        " what is refused for anything else and holds one.",
    )

    @field_validator("schema_ids", mode="after")
    @classmethod
    def _are_known(cls, value: dict[str, str]) -> dict[str, str]:
        schemas.registry_headers(value)
        return value


class DeadLetters(_Section):
    """How many dead letters in a partition mean that its records are not what is at fault."""

    max_consecutive: int = Field(
        1_000,
        ge=0,
        description="Dead letters in a row that pause a partition until `fraudstream resume`, 0 for"
        " no limit.",
    )
    max_ratio: float = Field(
        0.5,
        gt=0,
        le=1,
        description="Share of dead letters, in each `dead_letters.ratio_records`, above which a"
        " partition is paused; 1 for no limit.",
    )
    ratio_records: int = Field(
        1_000, ge=1, description="Records of a partition that the share is taken of."
    )


class Delivery(_Section):
    """What happens while the brokers are away."""

    outage_limit: Duration = Field(
        300.0,
        gt=0,
        description="Longest wait for the brokers before the process gives up (exit 75).",
    )


class Http(_Section):
    """Where /metrics, /livez and /readyz are served."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(9108, ge=0, le=65_535, description="Port; 0 takes a free one.")


class Lag(_Section):
    """How often lag is measured."""

    interval: Duration = Field(5.0, gt=0, description="Time between two measurements of lag.")


class Log(_Section):
    """How the log is written."""

    format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto` is `console` on a terminal, else `json`."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level.")


class _FileAndEnvironment(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True,
        hide_input_in_errors=True,
    )  # fmt: skip

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file."""
        return env_settings, init_settings


class _ModelAlone(_FileAndEnvironment):
    model: Model = Model()


class Settings(_FileAndEnvironment):
    """The whole configuration: a TOML file, and over it the environment."""

    kafka: dict[str, str] = Field(
        default_factory=dict,
        description="Kafka client properties, passed through as they are; keys quoted.",
    )
    security: Security = Security()
    topics: Topics = Topics()
    processing: Processing = Processing()
    instance: Instance = Instance()
    batch: Batch = Batch()
    model: Model = Model()
    windows: Windows = Windows()
    state: State = State()
    alerts: Alerts = Alerts()
    labels: Labels = Labels()
    input: Input = Input()
    dead_letters: DeadLetters = DeadLetters()
    delivery: Delivery = Delivery()
    http: Http = Http()
    lag: Lag = Lag()
    log: Log = Log()

    @model_validator(mode="before")
    @classmethod
    def _with_secrets(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Add the Kafka properties that are files of security.secrets_dir."""
        security, kafka = values.get("security"), values.get("kafka", {})
        folder = security.get("secrets_dir") if isinstance(security, dict) else None
        if not folder or not isinstance(folder, str) or not isinstance(kafka, dict):
            return values
        try:
            secrets = read_secrets(Path(folder))
        except OSError as error:
            raise ValueError(
                f"security.secrets_dir: {error.filename} cannot be read: {error.strerror}"
            ) from error
        except UnicodeDecodeError as error:
            raise ValueError(f"security.secrets_dir: a file in {folder} is no text") from error
        if twice := sorted(secrets.keys() & set(map(_property_name, kafka))):
            raise ValueError(
                f"{', '.join(twice)}: given in security.secrets_dir and in the configuration too;"
                " leave one of them out"
            )
        return values | {"kafka": kafka | secrets}

    @field_validator("kafka", mode="before")
    @classmethod
    def _kafka_properties(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        nested = [key for key, inner in value.items() if isinstance(inner, dict)]
        if nested:
            raise ValueError(
                f'names of Kafka properties hold dots: quote them, "{nested[0]}.…" = …'
            )
        properties = {_property_name(key): _property_value(inner) for key, inner in value.items()}
        if ours := sorted(properties.keys() & OURS.keys()):
            raise ValueError("; ".join(f"{name} is not to be set: {OURS[name]}" for name in ours))
        return properties

    @field_validator("kafka", mode="after")
    @classmethod
    def _without_secrets_as_text(cls, value: dict[str, str]) -> dict[str, str]:
        return KafkaProperties(value)

    @field_serializer("kafka")
    def _redacted(self, value: dict[str, str]) -> dict[str, str]:
        return redacted(value)

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        faults = list(self._contradictions())
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _contradictions(self) -> Iterator[str]:
        if not self.kafka.get("bootstrap.servers"):
            yield (
                'kafka."bootstrap.servers" is missing; set it, or'
                f" {ENV_PREFIX}KAFKA__BOOTSTRAP_SERVERS"
            )
        yield from self._open_to_others()
        if self.kafka.get("auto.offset.reset", "earliest") not in {"earliest", "error"}:
            yield 'kafka."auto.offset.reset" must be earliest or error: others skip payments'
        if self.processing.guarantee == "exactly-once" and not self.instance.id:
            yield (
                "instance.id is needed for exactly-once: two instances with one id would fence each"
                " other for ever, so give each slot a name of its own"
            )
        if self.windows.grace < self.input.max_future:
            yield (
                "windows.grace must be at least input.max_future: one payment from the future would"
                " make all others late"
            )
        if self.windows.grace > MOST_ALERT_WINDOWS * self.alerts.window:
            yield (
                f"alerts.window must be at least a {MOST_ALERT_WINDOWS}th of windows.grace: a card"
                " remembers no more of them, and payments out of order would raise alerts again"
            )
        names = [self.topics.input, self.topics.predictions, self.topics.alerts]
        names += [self.topics.labels, self.dead_letter_topic, self.audit_topic]
        if len(set(names)) < len(names):
            yield f"topics must differ from each other, here they are {', '.join(names)}"

    def _open_to_others(self) -> Iterator[str]:
        if not self.security.insecure:
            yield from (f"kafka: {sentence}" for sentence in exposures(self.kafka))
        if has_password(self.state.url):
            yield (
                "state.url holds a password, and URLs end up in logs: give it by the variables or"
                " the file that its file system reads"
            )

    @property
    def group(self) -> str:
        """The consumer group."""
        return self.kafka.get("group.id", "fraudstream")

    @property
    def dead_letter_topic(self) -> str:
        """The dead-letter topic, named after the input unless it has a name of its own."""
        return self.topics.dead_letters or f"{self.topics.input}-dlt"

    @property
    def audit_topic(self) -> str:
        """The topic of what was done with dead letters, named after theirs unless it has a name."""
        return self.topics.dead_letter_audit or f"{self.dead_letter_topic}-audit"


def load_settings(path: Path | None, *, insecure: bool = False) -> Settings:
    """
    Read the file, and over it the environment; `insecure` says security.insecure.

    Raises ConfigError with every fault at once: unknown keys come with the nearest known one.
    """
    document = {} if path is None else _read_toml(path)
    if insecure and isinstance(document.setdefault("security", {}), dict):
        document["security"]["insecure"] = True
    faults = [*_unknown_keys(document), *_unknown_variables(os.environ)]
    try:
        settings = Settings(**document)
    except SettingsError as error:  # a section in one variable, which is told to be unknown
        raise ConfigError(faults or [str(error)]) from error
    except pydantic.ValidationError as error:
        faults += [
            _sentence(fault) for fault in error.errors() if fault["type"] != "extra_forbidden"
        ]
        sound = document.keys() - {fault["loc"][0] for fault in error.errors() if fault["loc"]}
        stand_in = {} if "kafka" in sound else {"kafka": {"bootstrap.servers": "localhost"}}
        faults += _contradictions_among(
            stand_in | {section: document[section] for section in sound}
        )
        raise ConfigError(list(dict.fromkeys(faults))) from error
    if faults:
        raise ConfigError(faults)
    return settings


def load_model_settings(path: Path | None) -> Model:
    """
    Read the section of the model alone, for who loads bundles and needs no broker.

    Raises ConfigError with every fault of it, and every unknown key or variable.
    """
    document = {} if path is None else _read_toml(path)
    faults = [*_unknown_keys(document), *_unknown_variables(os.environ)]
    try:
        model = _ModelAlone(**{key: document[key] for key in document.keys() & {"model"}}).model
    except SettingsError as error:  # a section in one variable, which is told to be unknown
        raise ConfigError(faults or [str(error)]) from error
    except pydantic.ValidationError as error:
        faults += [
            _sentence(fault) for fault in error.errors() if fault["type"] != "extra_forbidden"
        ]
        raise ConfigError(faults) from error
    if faults:
        raise ConfigError(faults)
    return model


def _contradictions_among(document: Mapping[str, Any]) -> list[str]:
    """Return what the sections that are sound by themselves get wrong together."""
    try:
        Settings(**document)
    except pydantic.ValidationError as error:
        return [_sentence(fault) for fault in error.errors() if not fault["loc"]]
    return []


def effective(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (key, value as TOML has it) of all that holds, defaults too; secrets are redacted."""
    values = settings.model_dump(mode="json")
    for name, value in sorted(values.pop("kafka").items()):
        yield f'kafka."{name}"', json.dumps(value)
    for section, knobs in values.items():
        for name, value in knobs.items():
            yield f"{section}.{name}", json.dumps(value)


def documented_keys() -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, description) of every knob, in the order of this file."""
    for section, info in Settings.model_fields.items():
        if section == "kafka":
            yield 'kafka."…"', "", info.description or ""
            continue
        for name, field in _fields_of(section).items():
            yield f"{section}.{name}", _default_text(field), field.description or ""


def _default_text(field: pydantic.fields.FieldInfo) -> str:
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if BeforeValidator(parse_duration) in field.metadata:
        return duration_text(field.default)
    return str(field.default)


def _fields_of(section: str) -> Mapping[str, pydantic.fields.FieldInfo]:
    annotation: type[BaseModel] = Settings.model_fields[section].annotation  # type: ignore[assignment]
    return annotation.model_fields


def _known_keys() -> list[str]:
    return [key for key, _, _ in documented_keys() if not key.startswith("kafka")]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path} is not valid TOML: {error} (names of Kafka properties hold dots and must be"
            ' quoted: "group.protocol" = …)'
        ) from error


def _unknown_keys(document: Mapping[str, Any]) -> Iterator[str]:
    for section, content in document.items():
        if section not in Settings.model_fields:
            yield f"unknown section or key {section!r}{_nearest(section, Settings.model_fields)}"
        elif section != "kafka" and isinstance(content, dict):
            for name in content.keys() - _fields_of(section).keys():
                yield f"unknown key {section}.{name}{_nearest(f'{section}.{name}', _known_keys())}"


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    known = {f"{ENV_PREFIX}{key.replace('.', '__').upper()}": key for key in _known_keys()}
    for name in environ:
        foreign = not name.startswith(ENV_PREFIX) or name.startswith(_NOT_CONFIGURATION)
        if not foreign and name not in known and not name.startswith(f"{ENV_PREFIX}KAFKA__"):
            yield f"unknown variable {name}{_nearest(name, known)}"


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _sentence(details: Any) -> str:
    where = ".".join(str(part) for part in details["loc"])
    message = details["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _property_name(key: str) -> str:
    """
    A variable's name holds no dots: FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS is bootstrap.servers.
    """
    return key if "." in key or key == "log_level" else key.replace("_", ".")


def _property_value(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value
