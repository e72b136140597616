"""
Records -> Events and what was refused: the only step that may refuse a record for what it says.
"""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final, cast

import numpy as np

import schemas
from consumer.core import validate_kernel
from consumer.core.avro_decoder import AvroDecoder, bounds_of
from consumer.core.avro_program import Column
from consumer.core.batch import Events
from consumer.core.feature_sets import Attribute
from consumer.core.hashing import country_codes, fingerprint_ids, hash_ids
from consumer.core.symbols import KINDS
from consumer.records import Records, Refused, Status

_IDS: Final = ("event_id", "transaction_id", "card_id", "terminal_id")
_EVENT: Final = _IDS.index("event_id")
_CARD: Final = _IDS.index("card_id")
_TERMINAL: Final = _IDS.index("terminal_id")

PAYMENT_COLUMNS: Final = (
    *(Column(name, "string") for name in _IDS),
    Column("currency", "string"),
    Column("kind", "enum", default=0, symbols=KINDS),
    Column("event_time", "long"),
    Column("local_utc_offset_minutes", "long", default=0),
    Column("amount_minor", "long"),
    Column("currency_exponent", "long", default=2),
    Column("billing_amount_minor", "long", default=validate_kernel.ABSENT),
    Column("billing_currency_exponent", "long", default=2),
)
_TEXT_COLUMNS: Final = sum(column.kind == "string" for column in PAYMENT_COLUMNS)
_COUNTRY: Final = Column("merchant_country", "string", default=0)


class PaymentDecoder:
    """
    Turns records of the input topic into Events; each record it
    refuses costs its neighbours nothing.
    """

    def __init__(
        self,
        writers: Iterable[schemas.Schema],
        *,
        max_bytes: int = 65_536,
        furthest_ahead_seconds: float = 86_400,
        refuse_card_numbers: bool = True,
        registry: Mapping[bytes, schemas.Schema] = MappingProxyType({}),
        attributes: Collection[Attribute] = (),
    ) -> None:
        """
        Compile the allowed writer schemas, and those behind headers of a registry, for a feature
        set that tells payments apart by these attributes: a country that nobody asks for is not
        decoded.

        A value over `max_bytes` is refused, as is a payment made later than its own record's
        timestamp by more than `furthest_ahead_seconds`.
        """
        self._tells_countries = "merchant_country" in attributes
        columns = (*PAYMENT_COLUMNS, _COUNTRY) if self._tells_countries else PAYMENT_COLUMNS
        self._avro = AvroDecoder(writers, columns, max_bytes, registry)
        self._furthest_ahead = int(furthest_ahead_seconds * 1_000_000)
        self._refuse_card_numbers = refuse_card_numbers

    def decode(self, records: Records) -> tuple[Events, Refused]:
        """
        Return the payments to score, in the order of the records, and the rest with its reasons.
        """
        columns = self._avro.decode(records.values)
        text, statuses = columns.text, columns.statuses
        amounts = np.zeros(len(records), np.int64)
        keys = cast(list[bytes], records.keys)
        if None in keys:
            keys = [key or b"" for key in keys]
        validate_kernel.validate(
            columns.long("event_time"), records.timestamps, self._furthest_ahead,
            columns.long("kind"), columns.long("amount_minor"), columns.long("currency_exponent"),
            columns.long("billing_amount_minor"), columns.long("billing_currency_exponent"),
            columns.long("local_utc_offset_minutes"),
            text.buffer, text.starts[: len(_IDS)], text.lengths[: len(_IDS)], _CARD,
            np.frombuffer(b"".join(keys) or b"\0", np.uint8), bounds_of(keys),
            self._refuse_card_numbers, amounts, statuses,
        )  # fmt: skip
        refused = np.flatnonzero(statuses)
        events = Events(
            rows=np.arange(len(records)),
            partitions=records.partitions,
            offsets=records.offsets,
            live=records.live,
            times=columns.long("event_time"),
            kinds=columns.long("kind"),
            amounts=amounts,
            amounts_minor=columns.long("amount_minor"),
            utc_offset_minutes=columns.long("local_utc_offset_minutes"),
            cards=hash_ids(text, _CARD, statuses),
            terminals=hash_ids(text, _TERMINAL, statuses),
            fingerprints=fingerprint_ids(text, _EVENT, statuses),
            countries=country_codes(text, text.names.index(_COUNTRY.path), statuses)
            if self._tells_countries
            else np.zeros(len(records), np.int64),
            text=text.first(_TEXT_COLUMNS),
        )
        if len(refused) == 0:
            return events, Refused(refused, statuses[:0])
        return events.take(np.flatnonzero(statuses == Status.GOOD)), Refused(
            refused, statuses[refused]
        )
