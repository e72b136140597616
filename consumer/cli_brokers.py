"""The brokers that a command works with, looked at before it sends or believes anything."""

from typing import Final

from confluent_kafka import KafkaException

from consumer.adapters.access import require_trust
from consumer.adapters.kafka_errors import kafka_error
from consumer.errors import FatalError
from consumer.settings import Settings

_ANSWER_SECONDS: Final = 10.0


def require_brokers(settings: Settings) -> None:
    """
    Return when the brokers are those that the configuration lets us trust, as a consumer asks.

    Raises ConfigError with a sentence that says why they are not, FatalError when none answers.
    """
    try:
        require_trust(settings, _ANSWER_SECONDS)
    except KafkaException as error:
        raise FatalError(f"no broker answers: {kafka_error(error).str()}") from error
