"""
What can go wrong, named by what the caller does about it.

    FraudstreamError
      ConfigError            refuse to start; every fault is listed at once (exit code 78)
        ModelError           the model bundle is not what its manifest says (exit code 78)
      AssignmentLostError    forget this batch; the partitions' new owner replays it
      BatchAbortedError      nothing of this batch was committed: roll back, rewind, poll again
        PartitionsHeldError  and let these partitions wait: their dead letters have no place
      OutputRefusedError     an output itself is at fault: find its record
      FatalError             stop without committing (exit code 70)
        DeniedError          ask the brokers which right was taken away, and say so (exit code 70)
        OutageError          the brokers stayed away too long (exit code 75)
        TopicRemadeError     a topic was made anew: only a new process begins with it (exit code 75)

A record that no retry can score raises nothing: the step that refuses it says why in a column of
`Reason`, and its neighbours never notice.
"""

from collections.abc import Sequence


class FraudstreamError(Exception):
    """Base of everything that this package raises on purpose."""


class ConfigError(FraudstreamError):
    """The configuration cannot work. `faults` holds one sentence for each thing to change."""

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class ModelError(ConfigError):
    """The model bundle cannot be trusted or does not fit this build."""


class BatchAbortedError(FraudstreamError):
    """Nothing of the batch was committed; the same records will be polled again."""


class AssignmentLostError(BatchAbortedError):
    """The group gave our partitions to somebody else before the batch was committed."""


class PartitionsHeldError(BatchAbortedError):
    """Dead letters of these partitions have nowhere to go: they must wait, and no others."""

    def __init__(self, topic: str, width: int, partitions: Sequence[int]) -> None:
        super().__init__(f"topic {topic} has {width} partitions, and a dead letter keeps its own")
        self.partitions = list(partitions)


class OutputRefusedError(FraudstreamError):
    """An output of `topic` itself is at fault, too large most likely: its record must be found."""

    def __init__(self, cause: str, topic: str) -> None:
        super().__init__(f"{cause}: {topic}")
        self.topic = topic


class FatalError(FraudstreamError):
    """Going on could lose or repeat records; only a new process can put it right."""


class DeniedError(FatalError):
    """The brokers refuse what we must be allowed; `resource` is the kind of thing, as ACLs say."""

    def __init__(self, sentence: str, resource: str) -> None:
        super().__init__(sentence)
        self.resource = resource


class OutageError(FatalError):
    """The brokers did not answer within delivery.outage_limit."""

    def __init__(self, limit_seconds: float) -> None:
        super().__init__(
            f"the brokers did not answer for {limit_seconds:g} s (delivery.outage_limit); what they"
            " did not acknowledge is not committed"
        )


class TopicRemadeError(FatalError):
    """A topic that we read is another one now, of the same name."""

    def __init__(self, topic: str) -> None:
        super().__init__(
            f"topic {topic} was deleted and made again while it was read; the next start reads the"
            " new one from its first record"
        )
