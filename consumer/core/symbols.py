"""Symbols of the schemas' enumerations, in their order: columns hold their numbers."""

from typing import Final

KINDS: Final = (
    "UNKNOWN", "AUTHORISATION", "ADVICE", "REVERSAL", "REFUND", "CLEARING", "ACCOUNT_VERIFICATION",
)  # fmt: skip
VERDICTS: Final = ("UNKNOWN", "FRAUD", "GENUINE", "DISPUTED", "FIRST_PARTY_FRAUD")
DECISIONS: Final = ("UNKNOWN", "APPROVE", "CHALLENGE", "REVIEW", "DECLINE")
