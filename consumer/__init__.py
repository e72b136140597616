"""fraudstream: a Kafka consumer group that scores card payments for fraud."""

__version__ = "0.1.0"
