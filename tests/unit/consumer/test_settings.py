import os
import traceback
from pathlib import Path

import pytest

from consumer.core import windows_kernel
from consumer.errors import ConfigError
from consumer.settings import (
    MOST_ALERT_WINDOWS,
    OURS,
    Settings,
    documented_keys,
    duration_text,
    load_model_settings,
    load_settings,
    parse_duration,
)

BROKER = '[kafka]\n"bootstrap.servers" = "localhost:9092"\n'


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """Start without the variables of whoever runs the tests."""
    for name in list(os.environ):
        if name.startswith("FRAUDSTREAM_"):
            monkeypatch.delenv(name)


@pytest.fixture
def load(tmp_path):
    """Return a function that loads a file of this text; the broker is named already."""

    def load(text="", broker=BROKER):
        path = tmp_path / "fraudstream.toml"
        path.write_text(broker + text)
        return load_settings(path)

    return load


@pytest.fixture
def faults(load):
    """Return a function that gives the faults of a file of this text."""

    def faults(text, **options):
        with pytest.raises(ConfigError) as caught:
            load(text, **options)
        return caught.value.faults

    return faults


def test_a_broker_is_all_that_must_be_said(load):
    """Everything else works out of the box."""
    settings = load()

    assert settings.kafka == {"bootstrap.servers": "localhost:9092"}
    assert settings.topics.input == "transactions.raw"
    assert settings.processing.guarantee == "at-least-once"
    assert settings.group == "fraudstream"


def test_without_a_broker_it_says_how_to_name_one(faults):
    """The file or the environment."""
    [fault] = faults("", broker="")

    assert 'kafka."bootstrap.servers" is missing' in fault
    assert "FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS" in fault


def test_the_environment_alone_is_enough(monkeypatch):
    """One underscore stands for a dot, as names of variables hold none."""
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.2:9092")
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__MAX_POLL_INTERVAL_MS", "60000")

    settings = load_settings(None)

    assert settings.kafka == {
        "bootstrap.servers": "127.0.0.2:9092",
        "max.poll.interval.ms": "60000",
    }


def test_the_environment_wins_over_the_file(load, monkeypatch):
    """Key by key: the rest of a section stays the file's."""
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.2:9092")
    monkeypatch.setenv("FRAUDSTREAM_BATCH__MAX_RECORDS", "7")

    settings = load('"group.id" = "g"\n[batch]\nmax_records = 5\nmax_wait = "5ms"\n')

    assert settings.kafka == {"bootstrap.servers": "127.0.0.2:9092", "group.id": "g"}
    assert (settings.batch.max_records, settings.batch.max_wait) == (7, 0.005)
    assert settings.group == "g"


def test_a_section_may_come_from_the_environment_alone(load, monkeypatch):
    """Durations as in the file."""
    monkeypatch.setenv("FRAUDSTREAM_LABELS__SETTLE", "2m")

    assert load().labels.settle == 120


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("10s", 10), ("5m", 300), ("24h", 86_400), ("30d", 2_592_000),
     ("1.5h", 5_400), ("7", 7), (" 10 s ", 10), (8, 8), (0.25, 0.25)],
)  # fmt: skip
def test_durations_are_written_with_a_unit(text, seconds):
    """A plain number is seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "10 parsecs", "-5s", "1e3s", "5 m s", "0x10"])
def test_what_is_no_duration_is_refused_with_examples(faults, text):
    """The sentence says how to write one."""
    [fault] = faults(f'[labels]\nsettle = "{text}"\n')

    assert fault.startswith("labels.settle: ")
    assert "write 250ms, 10s, 5m, 24h or 30d" in fault


@pytest.mark.parametrize("number", ["-1", "nan", "inf", "-inf"])
@pytest.mark.parametrize(
    "key",
    ["windows.grace", "alerts.window", "batch.max_wait", "labels.settle", "delivery.outage_limit",
     "lag.interval", "input.max_future", "labels.max_wait"],
)  # fmt: skip
def test_durations_are_finite_and_not_negative(faults, key, number):
    """A number that no clock can count to is found here, and not where it is used."""
    section, name = key.split(".")

    assert any(fault.startswith(key) for fault in faults(f"[{section}]\n{name} = {number}\n"))


@pytest.mark.parametrize("key", ["alerts.window", "delivery.outage_limit", "lag.interval"])
def test_some_durations_must_not_be_nothing(faults, key):
    """A window of no length, a limit that is always over."""
    section, name = key.split(".")

    assert any(fault.startswith(key) for fault in faults(f"[{section}]\n{name} = 0\n"))


def test_all_faults_are_told_at_once(faults, monkeypatch):
    """Nobody should have to start a process eight times to learn of eight of them."""
    monkeypatch.setenv("FRAUDSTREAM_BATHC__MAX_RECORDS", "5")

    found = faults(
        """
        [batch]
        max_records = 0
        max_wiat = "1s"
        [topics]
        input = 5
        [windos]
        grace = "1d"
        [processing]
        guarantee = "exactly-once"
        [labels]
        settle = "soon"
        """
    )

    for part in (
        "batch.max_records: ", "unknown key batch.max_wiat", "topics.input: ",
        "unknown section or key 'windos'", "instance.id is needed", "labels.settle: ",
        "unknown variable FRAUDSTREAM_BATHC__MAX_RECORDS",
    ):  # fmt: skip
        assert any(part in fault for fault in found), part
    assert len(found) == 7


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[batch]\nmax_wiat = 1\n", "unknown key batch.max_wiat; did you mean batch.max_wait?"),
        ("[bach]\nx = 1\n", "unknown section or key 'bach'; did you mean batch?"),
        ("[zzz]\nx = 1\n", "unknown section or key 'zzz'"),
        ("[alerts]\nwindw = 1\n", "unknown key alerts.windw; did you mean alerts.window?"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_known_one(faults, text, told):
    """A misspelt knob is not a knob that does nothing."""
    assert faults(text) == [told]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "FRAUDSTREAM_BATCH__MAX_RECORD",
            "unknown variable FRAUDSTREAM_BATCH__MAX_RECORD; did you mean"
            " FRAUDSTREAM_BATCH__MAX_RECORDS?",
        ),
        ("FRAUDSTREAM_", "unknown variable FRAUDSTREAM_"),
    ],
)
def test_an_unknown_variable_comes_with_the_nearest_known_one(faults, monkeypatch, name, told):
    """Only those that begin as ours do."""
    monkeypatch.setenv(name, "5")

    [fault] = faults("")

    assert fault.startswith(told)


@pytest.mark.parametrize(
    "name",
    [
        "FRAUDSTREAM_CONFIG",
        "FRAUDSTREAM_CACHE",
        "FRAUDSTREAM_SLOW",
        "FRAUDSTREAM_TEST_BROKER",
        "FRAUD_X",
        "PATH2",
    ],
)
def test_other_variables_are_left_alone(load, monkeypatch, name):
    """Some name the file, the cache or the tests' broker."""
    monkeypatch.setenv(name, "5")

    load()


def test_properties_of_kafka_need_quotes(faults):
    """TOML takes an unquoted dot for a table."""
    [fault] = faults("", broker="[kafka]\nbootstrap.servers = 'broker:9092'\n")

    assert "names of Kafka properties hold dots: quote them" in fault
    assert '"bootstrap.…"' in fault


def test_properties_that_cannot_even_be_parsed_without_quotes_are_told_alike(faults):
    """One name may be the beginning of another."""
    [fault] = faults('group.protocol = "consumer"\ngroup.protocol.type = "x"\n')

    assert "is not valid TOML" in fault
    assert 'must be quoted: "group.protocol"' in fault


@pytest.mark.parametrize(
    ("written", "passed"), [("5", "5"), ("true", "true"), ("false", "false"), ("0.5", "0.5")]
)
def test_properties_of_kafka_are_passed_through_as_text(load, written, passed):
    """As librdkafka takes them."""
    assert load(f'"linger.ms" = {written}\n').kafka["linger.ms"] == passed


@pytest.mark.parametrize("written", ["[1]", "[]"])
def test_a_list_is_no_property(faults, written):
    """librdkafka has none."""
    [fault] = faults(f'"linger.ms" = {written}\n')

    assert fault.startswith("kafka.linger.ms: ")


@pytest.mark.parametrize("name", OURS)
def test_a_property_that_the_guarantees_rest_on_is_not_to_be_set(faults, name):
    """With the reason why."""
    assert f"kafka: {name} is not to be set: {OURS[name]}" in faults(f'"{name}" = "x"\n')


def test_all_properties_that_are_not_to_be_set_are_told_at_once(faults):
    """As any other faults are."""
    found = " ".join(faults('"acks" = 1\n"isolation.level" = "read_uncommitted"\n'))

    assert "acks is not to be set" in found
    assert "isolation.level is not to be set" in found


def test_such_a_property_cannot_come_in_by_the_environment(faults, monkeypatch):
    """Under the name it has there."""
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__ENABLE_AUTO_COMMIT", "true")

    assert "enable.auto.commit is not to be set" in " ".join(faults(""))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[processing]\nguarantee = "exactly-once"\n', "instance.id is needed for exactly-once"),
        ('[windows]\ngrace = "1h"\n', "windows.grace must be at least input.max_future"),
        ('"auto.offset.reset" = "latest"\n', 'kafka."auto.offset.reset" must be earliest or error'),
        ('[topics]\ninput = "a"\nlabels = "a"\n', "topics must differ from each other"),
        ('[topics]\nalerts = "transactions.raw-dlt"\n', "topics must differ from each other"),
        ('[alerts]\nwindow = "1m"\n', "alerts.window"),
    ],
)
def test_what_contradicts_itself_is_refused_with_the_reason(faults, text, told):
    """Each value by itself would do; the last one would open an alert many times over."""
    assert any(told in fault for fault in faults(text))


@pytest.mark.parametrize(
    "text",
    [
        '[processing]\nguarantee = "exactly-once"\n[instance]\nid = "0"\n',
        '[windows]\ngrace = "1h"\n[input]\nmax_future = "1h"\n',
        '"auto.offset.reset" = "error"\n',
        '[alerts]\nwindow = "1h"\n',
    ],
)
def test_what_only_comes_near_a_contradiction_is_taken(load, text):
    """The edges are allowed."""
    load(text)


@pytest.mark.parametrize(
    "text",
    [
        "[batch]\nmax_records = 0\n",
        "[batch]\nmax_records = 100_001\n",
        "[input]\nmax_value_bytes = 63\n",
        "[http]\nport = 65_536\n",
        "[http]\nport = -1\n",
        '[instance]\nid = "a b"\n',
        '[processing]\nguarantee = "at-most-once"\n',
        '[log]\nlevel = "loud"\n',
        "[batch]\nmax_records = 1.5\n",
        "batch = 5\n",
    ],
)
def test_what_is_out_of_range_is_refused_by_name(faults, text):
    """Every fault begins with the key it is about."""
    [fault] = faults("", broker=text + BROKER) if text.startswith("batch =") else faults(text)

    section = text.partition("]")[0].strip("[ =5\n")
    assert fault.startswith(section)


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ('17 = "payment-1"', "17: 'payment-1' is no released schema: transaction-1"),
        ('seventeen = "transaction-1"', "'seventeen' is neither the number of a schema nor"),
        ('4294967296 = "transaction-1"', "'4294967296' is neither the number of a schema nor"),
    ],
)
def test_ids_of_a_registry_name_schemas_that_are_there(faults, told, sentence):
    """Numbers of four bytes or GUIDs, and released schemas."""
    [fault] = faults(f"[input.schema_ids]\n{told}\n")

    assert fault.startswith("input.schema_ids: ")
    assert sentence in fault


def test_a_file_that_is_not_there_is_told_by_name(tmp_path):
    """With the system's own words."""
    with pytest.raises(ConfigError, match=r"nowhere\.toml cannot be read: No such file"):
        load_settings(tmp_path / "nowhere.toml")


def test_the_dead_letter_topic_is_named_after_the_input(load):
    """Unless it has a name of its own."""
    assert load().dead_letter_topic == "transactions.raw-dlt"
    assert load('[topics]\ninput = "in"\n').dead_letter_topic == "in-dlt"
    assert load('[topics]\ndead_letters = "morgue"\n').dead_letter_topic == "morgue"


def test_settings_do_not_change_after_they_were_read(load):
    """What was checked is what is used."""
    settings = load()

    with pytest.raises(Exception, match="frozen"):
        settings.batch.max_records = 1


def test_every_knob_is_documented():
    """Its key, its default and a sentence about it."""
    knobs = list(documented_keys())

    assert len(knobs) == len({key for key, _, _ in knobs})
    for key, _, description in knobs:
        assert description.rstrip("`").endswith((".", ")")), key
    sections = {key.split(".")[0] for key, _, _ in knobs}
    assert sections == set(Settings.model_fields)


def test_defaults_do_not_contradict_themselves():
    """A file with nothing but a broker is a good one."""
    settings = Settings(kafka={"bootstrap.servers": "localhost"})

    assert settings.model.path == Path("model")
    assert settings.windows.grace >= settings.input.max_future


def test_a_card_remembers_its_alerts_of_the_whole_grace():
    """And of the windows that the grace begins and ends in."""
    assert MOST_ALERT_WINDOWS + 2 <= windows_kernel.ALERTS_KEPT


@pytest.mark.parametrize(
    "text", ["10ms", "250ms", "5s", "1m", "5m", "90m", "1h", "1d", "30d", "0ms"]
)
def test_a_duration_is_shown_as_it_would_be_written(text):
    """In the units that the parser reads."""
    assert parse_duration(duration_text(parse_duration(text))) == parse_duration(text)


def test_defaults_are_shown_as_they_would_be_written():
    """In the table of the README."""
    shown = {key: default for key, default, _ in documented_keys()}

    assert shown["batch.max_wait"] == "10ms"
    assert shown["windows.grace"] == "1d"
    assert shown["model.allow_pickle"] == "false"


@pytest.mark.parametrize("value", ["canary-3f9c1d", '{"sasl.password": "canary-3f9c1d"', "{}"])
@pytest.mark.parametrize("section", ["KAFKA", "MODEL"])
@pytest.mark.parametrize("load", [load_settings, load_model_settings])
def test_a_section_in_one_variable_is_unknown(load, section, value, monkeypatch):
    """Whether it can be parsed or not, and its value is not quoted."""
    monkeypatch.setenv(f"FRAUDSTREAM_{section}", value)

    with pytest.raises(ConfigError, match=f"unknown variable FRAUDSTREAM_{section}") as caught:
        load(None)

    assert "canary" not in "".join(traceback.format_exception(caught.value))
