import pytest
from confluent_kafka import Consumer

from consumer.adapters import kafka_clients
from consumer.errors import ConfigError
from consumer.settings import OURS, Settings


def on_error(_):
    """Nothing is connected here."""


def settings_of(kafka=(), **sections):
    return Settings(kafka={"bootstrap.servers": "localhost:9092", **dict(kafka)}, **sections)


EXACTLY_ONCE = {"processing": {"guarantee": "exactly-once"}, "instance": {"id": "3"}}


def configs(settings):
    """Return the configuration of every client, by its role."""
    return {
        "group": kafka_clients.group_consumer_config(settings, on_error),
        "reader": kafka_clients.reader_config(settings, on_error),
        "producer": kafka_clients.producer_config(settings, on_error),
        "transactional": kafka_clients.transactional_config(settings, on_error, 0),
        "admin": kafka_clients.admin_config(settings),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [("bootstrap.servers", "[::1]:9"), ("security.protocol", "sasl_ssl"), ("sasl.username", "x")],
)
def test_properties_of_the_connection_reach_every_client(name, value):
    """As they are."""
    found = configs(settings_of({name: value}, **EXACTLY_ONCE))

    assert {role: config[name] for role, config in found.items()} == dict.fromkeys(found, value)


@pytest.mark.parametrize("role", ["group", "reader"])
def test_consumers_commit_nothing_by_themselves(role):
    """Offsets are committed with the outputs, and aborted records stay unseen."""
    config = configs(settings_of())[role]

    assert config["enable.auto.commit"] is False
    assert config["enable.auto.offset.store"] is False
    assert config["isolation.level"] == "read_committed"


def test_the_group_consumer_never_resets_by_itself():
    """Every partition starts where we say; an offset that is gone must not pass silently."""
    config = configs(settings_of({"auto.offset.reset": "earliest"}))["group"]

    assert config["auto.offset.reset"] == "error"


def test_what_waits_in_the_group_consumer_is_bounded():
    """By less than the client's own 64 MB, unless told otherwise, and asked for again at once."""
    names = ("queued.max.messages.kbytes", "fetch.queue.backoff.ms")
    unless_told = configs(settings_of())["group"]
    told = configs(settings_of({"queued.max.messages.kbytes": "1000"}))["group"]

    assert [unless_told[name] for name in names] == [16_384, 10]
    assert [told[name] for name in names] == ["1000", 10]


@pytest.mark.parametrize("role", ["producer", "transactional"])
def test_producers_keep_every_record_once_and_a_card_where_it_was(role):
    """Idempotent, acknowledged by all, and partitioned as Java clients do."""
    config = configs(settings_of(**EXACTLY_ONCE))[role]

    assert config["enable.idempotence"] is True
    assert config["acks"] == "all"
    assert config["partitioner"] == "murmur2_random"


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("group", "enable.auto.commit"),
        ("group", "enable.auto.offset.store"),
        ("group", "isolation.level"),
        ("reader", "enable.auto.commit"),
        ("reader", "isolation.level"),
        ("producer", "enable.idempotence"),
        ("producer", "acks"),
        ("producer", "max.in.flight.requests.per.connection"),
        ("producer", "partitioner"),
        ("producer", "delivery.report.only.error"),
        ("transactional", "transactional.id"),
    ],
)
def test_what_is_not_to_be_set_stands_over_what_is_set(role, name):
    """Were one to slip through the settings, ours would still be the last word."""
    settings = settings_of(**EXACTLY_ONCE)
    settings.kafka[name] = "theirs"

    assert name in OURS
    assert configs(settings)[role][name] != "theirs"


def test_transactional_ids_are_of_the_slot_and_stable():
    """A restart must fence what it left open, and nobody else."""
    settings = settings_of({"group.id": "g"}, **EXACTLY_ONCE)

    ids = [
        kafka_clients.transactional_config(settings, on_error, slot)["transactional.id"]
        for slot in (0, 1)
    ]

    assert ids == ["g-3-0", "g-3-1"]


@pytest.mark.parametrize(
    ("kafka", "expected"), [({}, 60_000), ({"transaction.timeout.ms": "9"}, "9")]
)
def test_transactions_end_by_themselves_after_a_minute_unless_told_otherwise(kafka, expected):
    """An orphan holds up every reader until then."""
    settings = settings_of(kafka, **EXACTLY_ONCE)

    config = kafka_clients.transactional_config(settings, on_error, 0)

    assert config["transaction.timeout.ms"] == expected


@pytest.mark.parametrize(
    "name", ["session.timeout.ms", "max.poll.interval.ms", "fetch.min.bytes", "group.instance.id"]
)
def test_a_consumer_s_property_reaches_no_producer(name):
    """librdkafka warns of each that it does not know."""
    found = configs(settings_of({name: "1"}))

    assert found["group"][name] == "1"
    assert name not in found["producer"]
    assert name not in found["admin"]


@pytest.mark.parametrize("name", ["linger.ms", "compression.type", "transaction.timeout.ms"])
def test_a_producer_s_property_reaches_no_consumer(name):
    """And wins over our defaults."""
    found = configs(settings_of({name: "7"}))

    assert found["producer"][name] == "7"
    assert name not in found["group"]
    assert name not in found["reader"]


@pytest.mark.parametrize(
    "name",
    [
        "group.instance.id",
        "group.protocol",
        "session.timeout.ms",
        "max.poll.interval.ms",
        "partition.assignment.strategy",
    ],
)
def test_readers_beside_the_group_never_join_it(name):
    """A second member of one instance id would fence the first."""
    assert name not in configs(settings_of({name: "x"}))["reader"]


@pytest.mark.parametrize(
    ("kafka", "strategy", "incremental"),
    [
        ({}, "cooperative-sticky", True),
        ({"partition.assignment.strategy": "range"}, "range", False),
        ({"partition.assignment.strategy": "roundrobin,range"}, "roundrobin,range", False),
        ({"group.protocol": "consumer"}, None, True),
        ({"group.protocol": "classic"}, "cooperative-sticky", True),
    ],
)
def test_partitions_come_one_by_one_unless_an_eager_strategy_is_asked_for(
    kafka, strategy, incremental
):
    """assign() must be of the kind that the protocol takes."""
    settings = settings_of(kafka)

    config = kafka_clients.group_consumer_config(settings, on_error)

    assert config.get("partition.assignment.strategy") == strategy
    assert kafka_clients.uses_incremental_rebalance(settings.kafka) is incremental


@pytest.mark.parametrize(
    ("sections", "kafka", "name"),
    [
        ({}, {}, "fraudstream"),
        ({"instance": {"id": "3"}}, {}, "fraudstream-3"),
        ({"instance": {"id": "3"}}, {"client.id": "mine"}, "mine"),
    ],
)
def test_clients_are_named_after_their_instance(sections, kafka, name):
    """So that brokers' logs and quotas tell them apart."""
    found = configs(settings_of(kafka, **sections))

    assert {found[role]["client.id"] for role in ("group", "reader", "producer")} == {name}


@pytest.mark.parametrize(
    "kafka",
    [
        {},
        {"group.protocol": "consumer"},
        {"compression.type": "zstd", "linger.ms": "0"},
        {"group.instance.id": "3", "session.timeout.ms": "10000"},
        {"session.timeout.ms": "6000", "max.poll.interval.ms": "10000"},
    ],
)
def test_sound_properties_are_taken(kafka):
    """Every consumer can be made; nothing is connected."""
    settings = settings_of(kafka)

    kafka_clients.check_properties(settings)

    Consumer(kafka_clients.reader_config(settings, on_error)).close()


@pytest.mark.parametrize(
    ("kafka", "told"),
    [
        ({"no.such.property": "x"}, "no.such.property"),
        ({"session.timeout.ms": "soon"}, "session.timeout.ms"),
        ({"compression.type": "rar"}, "compression"),
    ],
)
def test_properties_that_the_library_refuses_are_told_in_its_words(kafka, told):
    """Before anything is connected."""
    with pytest.raises(ConfigError, match=told):
        kafka_clients.check_properties(settings_of(kafka))


def test_faults_of_both_clients_are_told_at_once():
    """And one that both find is told once."""
    wrong = {"session.timeout.ms": "soon", "linger.ms": "later", "no.such.property": "x"}

    with pytest.raises(ConfigError) as caught:
        kafka_clients.check_properties(settings_of(wrong))

    assert len(caught.value.faults) == len(set(caught.value.faults)) >= 1
