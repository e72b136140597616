"""
librdkafka's in-process cluster, by its own C functions, so that a topic is as wide as asked.

The client property test.mock.num.brokers starts the same cluster, but there every topic has 4.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException, cimpl


@contextmanager
def run_embedded(nodes: int) -> Iterator[tuple[str, Callable[[str, int], None]]]:
    """Run a cluster in memory; yield its address, and a function that creates a topic."""
    # The extension module is linked to librdkafka: a look-up in the one searches the other too.
    kafka = ctypes.CDLL(cimpl.__file__)
    for name in ("conf_new", "new", "mock_cluster_new", "mock_cluster_bootstraps"):
        getattr(kafka, f"rd_kafka_{name}").restype = ctypes.c_void_p
    silent = ctypes.c_void_p(kafka.rd_kafka_conf_new())
    kafka.rd_kafka_conf_set(silent, b"log_level", b"0", None, ctypes.c_size_t(0))
    client = ctypes.c_void_p(kafka.rd_kafka_new(0, silent, None, ctypes.c_size_t(0)))
    cluster = ctypes.c_void_p(kafka.rd_kafka_mock_cluster_new(client, nodes))
    # By default 3 s, in which members with short sessions are thrown out again and again.
    kafka.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)

    def create(topic: str, partitions: int) -> None:
        if code := kafka.rd_kafka_mock_topic_create(cluster, topic.encode(), partitions, 1):
            raise KafkaException(KafkaError(code, f"the embedded broker refuses topic {topic}"))

    try:
        yield ctypes.string_at(kafka.rd_kafka_mock_cluster_bootstraps(cluster)).decode(), create
    finally:
        kafka.rd_kafka_mock_cluster_destroy(cluster)
        kafka.rd_kafka_destroy(client)
