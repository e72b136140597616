"""The fault plan: what is done to a group under traffic, and what the checker says of it."""


class NotMadeHere(Exception):  # noqa: N818 - it states what is the case, as its message does
    """A row wants what this machine has not; the message says what that is, and how to have it."""
