import traceback

import pytest

from consumer.errors import ConfigError
from consumer.kafka_properties import (
    KafkaProperties,
    announced_exposures,
    exposures,
    has_password,
    is_loopback,
    redacted,
)
from consumer.settings import Settings, effective, load_settings

CANARY = "canary-3f9c1d"
SECRETS = (
    "sasl.password", "ssl.key.password", "ssl.keystore.password", "ssl.key.pem",
    "sasl.oauthbearer.client.secret", "sasl.oauthbearer.config", "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.pasword", "ssl.key.passwd", "ssl.key.pwd",  # misspelt, they are shown and refused
)  # fmt: skip
REMOTE = {"bootstrap.servers": "kafka-1.bank.example:9093"}


@pytest.fixture
def load(tmp_path):
    """Return a function that loads a file of this text."""

    def load(text, **options):
        path = tmp_path / "fraudstream.toml"
        path.write_text(text)
        return load_settings(path, **options)

    return load


@pytest.mark.parametrize(
    "address",
    [
        "localhost:9092", "LOCALHOST", "127.0.0.1:9092", "127.8.0.1", "[::1]:9092", "::1",
        "PLAINTEXT://127.0.0.1:9092", "localhost:9092, 127.0.0.1:9093",
    ],
)  # fmt: skip
def test_loopback_needs_no_encryption(address):
    """Nobody else can listen there."""
    assert list(exposures({"bootstrap.servers": address})) == []


@pytest.mark.parametrize(
    "address",
    [
        "kafka:9092", "10.0.0.1:9092", "localhost:9092,kafka:9092", "[2001:db8::1]:9092",
        "localhost.evil.example:9092", "127.0.0.1.evil.example", "0.0.0.0:9092",
    ],
)  # fmt: skip
@pytest.mark.parametrize("protocol", [None, "plaintext", "SASL_PLAINTEXT"])
def test_others_must_not_be_reached_in_clear(address, protocol):
    """The sentence names the addresses, and both ways to go on."""
    properties = {"bootstrap.servers": address}
    if protocol:
        properties["security.protocol"] = protocol

    [sentence] = exposures(properties)

    assert address.split(",")[-1].strip() in sentence
    assert "ssl or sasl_ssl" in sentence
    assert "--insecure" in sentence


def test_a_second_name_of_the_address_is_no_way_around():
    """librdkafka takes both."""
    properties = {"bootstrap.servers": "localhost", "metadata.broker.list": "kafka:9092"}

    assert "kafka:9092" in next(exposures(properties))


@pytest.mark.parametrize("host", ["10.0.0.1", "2001:db8::1", "kafka"])
def test_brokers_that_others_name_are_judged_alike(host):
    """What was given is loopback; the sentence names those that are not."""
    properties = {"bootstrap.servers": "localhost", "metadata.broker.list": "localhost"}

    [sentence] = announced_exposures(properties, [("::1", 9092), (host, 9093)])

    assert f"to {f'[{host}]' if ':' in host else host}:9093: set it" in sentence
    assert list(announced_exposures(properties, [("::1", 9092), ("127.0.0.1", 9093)])) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable.ssl.certificate.verification", "false"),
        ("ssl.endpoint.identification.algorithm", "none"),
    ],
)
def test_tls_that_verifies_nobody_is_refused(name, value):
    """It is encrypted, for whoever stands in between."""
    properties = REMOTE | {"security.protocol": "ssl"}

    assert list(exposures(properties)) == []
    assert name in next(exposures(properties | {name: value}))


@pytest.mark.parametrize("host", ["", "127.0.0.1.example", "::2", "10.0.0.1"])
def test_what_is_not_loopback(host):
    """In doubt it is not."""
    assert not is_loopback(host)


def test_the_configuration_is_refused_and_may_be_allowed_knowingly(load, monkeypatch):
    """By the flag, the file or the environment."""
    text = '[kafka]\n"bootstrap.servers" = "kafka:9092"\n'

    with pytest.raises(ConfigError, match=r"security\.protocol"):
        load(text)

    assert load(text, insecure=True).security.insecure
    assert load(f"{text}[security]\ninsecure = true\n").kafka == {"bootstrap.servers": "kafka:9092"}
    monkeypatch.setenv("FRAUDSTREAM_SECURITY__INSECURE", "1")
    assert load(text).security.insecure


def test_secrets_come_from_files(load, tmp_path):
    """As Kubernetes mounts them: a file for each, and names with dots that are its own."""
    folder = tmp_path / "secrets"
    (folder / "..data").mkdir(parents=True)
    (folder / "sasl.password").write_text(f" {CANARY}\r\n")
    (folder / "ssl.key.password").write_text(CANARY)
    (folder / ".hidden").write_text("x")

    settings = load(
        f"[kafka]\n'bootstrap.servers' = 'localhost'\n[security]\nsecrets_dir = '{folder}'\n"
    )

    assert settings.kafka["sasl.password"] == f" {CANARY}"
    assert settings.kafka["ssl.key.password"] == CANARY
    assert len(settings.kafka) == 3


def test_a_secret_that_is_given_twice_is_refused(load, tmp_path, monkeypatch):
    """Nobody could say which holds; nor does the sentence tell either."""
    (tmp_path / "sasl.password").write_text(CANARY)
    monkeypatch.setenv("FRAUDSTREAM_KAFKA__SASL_PASSWORD", CANARY)
    (tmp_path / "configuration").mkdir()
    path = tmp_path / "configuration" / "fraudstream.toml"
    path.write_text(
        f"[kafka]\n'bootstrap.servers' = 'localhost'\n[security]\nsecrets_dir = '{tmp_path}'\n"
    )

    with pytest.raises(ConfigError, match=r"sasl\.password: given in security\.secrets_dir") as e:
        load_settings(path)

    assert CANARY not in "".join(traceback.format_exception(e.value))


def test_a_folder_of_secrets_that_is_not_there_is_refused(load):
    """A start without its password would wait for brokers that refuse it."""
    with pytest.raises(ConfigError, match=r"/nowhere cannot be read: No such file"):
        load("[kafka]\n'bootstrap.servers' = 'localhost'\n[security]\nsecrets_dir = '/nowhere'\n")


@pytest.mark.parametrize("name", SECRETS)
def test_no_text_of_the_configuration_holds_a_secret(name):
    """Its repr, which tracebacks and logs quote, its dumps, and what `check --show` prints."""
    settings = Settings(kafka={"bootstrap.servers": "localhost", name: CANARY})

    shown = [
        repr(settings), str(settings), repr(settings.kafka), f"{settings.kafka}",
        str(settings.model_dump()), settings.model_dump_json(), str(dict(effective(settings))),
    ]  # fmt: skip

    assert settings.kafka[name] == CANARY
    assert not [text for text in shown if CANARY in text]
    assert all("localhost" in text for text in shown)


def test_a_fault_beside_a_secret_does_not_quote_it(load):
    """Nor does the traceback of a program that loads the settings by itself."""
    text = f"[kafka]\n'sasl.password' = '{CANARY}'\nx = ['{CANARY}']"

    with pytest.raises(ConfigError) as caught:
        load(text)

    assert CANARY not in "".join(traceback.format_exception(caught.value))


def test_what_is_no_secret_stays_readable():
    """An operator needs the rest."""
    properties = {"sasl.username": "scorer", "ssl.key.location": "/k.pem", "ssl.ca.location": "/c"}

    assert redacted(properties) == properties
    assert repr(KafkaProperties(properties)) == repr(properties)


@pytest.mark.parametrize("url", ["s3://bucket/state", "file:///state", "/var/state", "s3://u@b/x"])
def test_urls_without_a_password_are_taken(url):
    """A name alone is no secret."""
    assert not has_password(url)


def test_a_state_url_with_a_password_is_refused(load):
    """It would be in every line about a snapshot."""
    with pytest.raises(ConfigError, match=r"state\.url holds a password") as caught:
        load(
            "[kafka]\n'bootstrap.servers' = 'localhost'\n"
            f"[state]\nurl = 'ftp://scorer:{CANARY}@files/state'\n"
        )

    assert CANARY not in "".join(traceback.format_exception(caught.value))
