"""What is committed beside an offset: of which topic it is, and who decided up to it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OffsetMetadata:
    """
    The string that Kafka keeps beside an offset, read and written: `topic-id=… scorer=… since=…`.

    `topic_id` is that of KIP-516, empty where it is not known. `scorer` names the model and policy
    that decided on all records from offset `since` up to the one that is committed; empty where an
    operator set the offset, and knows nothing of it.
    """

    topic_id: str = ""
    scorer: str = ""
    since: int = 0

    @classmethod
    def parse(cls, text: str | None) -> "OffsetMetadata":
        """Read what was committed; what we did not write says nothing."""
        said = dict(word.split("=", 1) for word in (text or "").split() if "=" in word)
        since = said.get("since", "")
        return cls(
            said.get("topic-id", ""),
            said.get("scorer", ""),
            int(since) if since.isdecimal() else 0,
        )

    def __str__(self) -> str:
        """Return what is committed."""
        words = [f"topic-id={self.topic_id}"] if self.topic_id else []
        return " ".join([*words, f"scorer={self.scorer}", f"since={self.since}"])
