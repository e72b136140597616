"""What is committed beside an offset: of which topic it is, and who decided up to it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OffsetMetadata:
    """
    The string that Kafka keeps beside an offset: `cluster=… topic-id=… scorer=… since=…`.

    `cluster` and `topic_id` (KIP-516) are empty where the brokers tell none. `scorer` names the
    model and policy that decided on all records from offset `since` up to the one that is
    committed; empty where an operator set the offset, and knows nothing of it.
    """

    cluster: str = ""
    topic_id: str = ""
    scorer: str = ""
    since: int = 0

    @classmethod
    def parse(cls, text: str | None) -> "OffsetMetadata":
        """Read what was committed; what we did not write says nothing."""
        said = dict(word.split("=", 1) for word in (text or "").split() if "=" in word)
        since = said.get("since", "")
        return cls(
            said.get("cluster", ""),
            said.get("topic-id", ""),
            said.get("scorer", ""),
            int(since) if since.isdecimal() else 0,
        )

    def __str__(self) -> str:
        """Return what is committed."""
        return (
            f"cluster={self.cluster} topic-id={self.topic_id}"
            f" scorer={self.scorer} since={self.since}"
        )
