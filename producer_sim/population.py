"""
Who pays and where: what the Handbook leaves out about its customers and terminals.

Everything here is drawn from the seed and a card's or terminal's number, so no attribute knows
which payment is a fraud. Cards belong to customers one to one; terminals belong to merchants.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from producer_sim.draws import choices, draws, fractions, tokens
from producer_sim.handbook import CUSTOMERS, TERMINALS, terminal_positions

Fields = dict[str, Any]
"""Part of an event: values by field name."""

_MERCHANTS: Final = 7_000
_ACQUIRERS: Final = 12
_REMOTE_SHARE: Final = 0.2
_SHOPS: Final = {"5411": 0.32, "5812": 0.16, "5814": 0.12, "5541": 0.12, "5912": 0.08, "5651": 0.08,
                 "5999": 0.07, "5311": 0.05}  # fmt: skip
_WEB_SHOPS: Final = {"5942": 0.25, "5732": 0.2, "5651": 0.2, "5816": 0.2, "4722": 0.15}
_COUNTRIES: Final = {"BE": 0.94, "NL": 0.03, "FR": 0.02, "LU": 0.01}
_FUNDING: Final = {"DEBIT": 0.68, "CREDIT": 0.26, "PREPAID": 0.06}
_KILOMETRES_PER_DEGREE: Final = 111.2
_PLANE_CORNER: Final = (50.45, 3.65)
"""Latitude and longitude of (0, 0): the plane, in kilometres, lies around Brussels."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A way to pay at a terminal, and how common it is."""

    fields: Fields
    at_till_small: float = 0
    """Weight at a shop's till up to 50.00, where contactless needs no PIN."""
    at_till_large: float = 0
    """Weight at a shop's till above 50.00."""
    remote: float = 0
    """Weight in a web shop."""


def _at_till(entry_mode: str, cvm: str) -> Fields:
    return {
        "entry_mode": entry_mode,
        "card_present": True,
        "cardholder_present": True,
        "initiator": "CARDHOLDER",
        "cvm": cvm,
        "cvv_result": "NOT_CHECKED",
        "avs_result": "NOT_CHECKED",
        "three_ds": None,
    }


def _remote(entry_mode: str, cvm: str, three_ds: Fields | None) -> Fields:
    return {
        "entry_mode": entry_mode,
        "card_present": False,
        "cardholder_present": False,
        "initiator": "CARDHOLDER",
        "cvm": cvm,
        "cvv_result": "MATCH" if entry_mode == "ECOMMERCE" else "NOT_CHECKED",
        "avs_result": "NOT_CHECKED",
        "three_ds": three_ds,
    }


def _three_ds(trans_status: str, eci: str, *, challenged: bool) -> Fields:
    return {"version": "2.2.0", "trans_status": trans_status, "eci": eci, "challenged": challenged}


CHECKOUTS: Final = (
    Checkout(_at_till("CONTACTLESS", "NONE"), at_till_small=0.62),
    Checkout(_at_till("CONTACTLESS", "DEVICE"), at_till_small=0.18, at_till_large=0.2),
    Checkout(_at_till("CONTACTLESS", "PIN"), at_till_small=0.02, at_till_large=0.25),
    Checkout(_at_till("CHIP", "PIN"), at_till_small=0.17, at_till_large=0.53),
    Checkout(_at_till("MAGSTRIPE", "SIGNATURE"), at_till_small=0.01, at_till_large=0.02),
    Checkout(_remote("ECOMMERCE", "NONE", _three_ds("Y", "05", challenged=False)), remote=0.4),
    Checkout(_remote("ECOMMERCE", "OTP", _three_ds("Y", "05", challenged=True)), remote=0.2),
    Checkout(_remote("ECOMMERCE", "NONE", _three_ds("A", "06", challenged=False)), remote=0.1),
    Checkout(_remote("ECOMMERCE", "NONE", None), remote=0.15),
    Checkout(_remote("CREDENTIAL_ON_FILE", "NONE", None), remote=0.15),
)

_NO_PIN_CENTS: Final = 50_00


def card_ids(seed: int) -> list[str]:
    """Return the card token of each customer, in order of customer number."""
    return [f"card-{token}" for token in tokens(seed, "card", np.arange(CUSTOMERS))]


def terminal_ids(seed: int) -> list[str]:
    """Return the id of each terminal, made unique with its acquirer, in order of number."""
    acquirers = _acquirers(_merchants(seed), seed)
    return [f"T{number:05d}-{acquirer}" for number, acquirer in enumerate(acquirers)]


def cards(seed: int) -> list[Fields]:
    """Return the fields that each customer's card gives to its payments."""
    numbers = np.arange(CUSTOMERS)
    countries = _chosen(seed, "card country", numbers, _COUNTRIES)
    fundings = _chosen(seed, "funding", numbers, _FUNDING)
    holders = tokens(seed, "cardholder", numbers)
    return [
        {
            "card_id": card,
            "customer_id": f"cust-{holder}",
            "card_country": country,
            "funding": funding,
        }
        for card, holder, country, funding in zip(
            card_ids(seed), holders, countries, fundings, strict=True
        )
    ]


def devices(seed: int) -> list[Fields]:
    """Return the device that each customer pays with in web shops."""
    numbers = np.arange(CUSTOMERS)
    hosts = draws(seed, "address", numbers).tolist()
    ages = (fractions(seed, "account age", numbers) * 3_000).astype(int).tolist()
    return [
        {
            "device": {
                "device_id": f"dev-{device}",
                # 2001:db8::/32 is kept for documentation (RFC 3849): nobody's address.
                "ip": f"2001:db8:{host & 0xFFFF:x}:{host >> 16 & 0xFFFF:x}::1",
                "ip_country": card["card_country"],
                "ip_is_proxy": False,
                "user_agent_hash": agent,
                "email_hash": email,
                "account_age_days": age,
            }
        }
        for card, device, host, agent, email, age in zip(
            cards(seed),
            tokens(seed, "device", numbers),
            hosts,
            tokens(seed, "user agent", numbers),
            tokens(seed, "email", numbers),
            ages,
            strict=True,
        )
    ]


def terminals(seed: int) -> list[Fields]:
    """Return the fields that each terminal gives to its payments; a web shop has no place."""
    merchants = _merchants(seed)
    shops = _chosen(seed, "shop", merchants, _SHOPS)
    web_shops = _chosen(seed, "web shop", merchants, _WEB_SHOPS)
    return [
        {
            "terminal_id": terminal,
            "merchant_id": f"M{merchant:04d}",
            "acquirer_id": acquirer,
            "mcc": web_shop if remote else shop,
            "merchant_country": "BE",
            "currency": "EUR",
            "currency_exponent": 2,
            "local_utc_offset_minutes": 0,
            "geo": None if remote else place,
        }
        for terminal, merchant, acquirer, shop, web_shop, remote, place in zip(
            terminal_ids(seed),
            merchants.tolist(),
            _acquirers(merchants, seed),
            shops,
            web_shops,
            remote_terminals(seed).tolist(),
            _places(),
            strict=True,
        )
    ]


def remote_terminals(seed: int) -> NDArray[np.bool_]:
    """Return for each terminal whether it is a web shop's, bool[TERMINALS]."""
    return fractions(seed, "remote", _merchants(seed)) < _REMOTE_SHARE


def checkouts(
    rows: NDArray[np.int64], cents: NDArray[np.int64], remote: NDArray[np.bool_], seed: int
) -> NDArray[np.intp]:
    """Return which of CHECKOUTS each payment used, by its row, amount and kind of terminal."""
    small = choices(seed, "checkout", rows, [way.at_till_small for way in CHECKOUTS])
    large = choices(seed, "checkout", rows, [way.at_till_large for way in CHECKOUTS])
    web = choices(seed, "checkout", rows, [way.remote for way in CHECKOUTS])
    return np.where(remote, web, np.where(cents <= _NO_PIN_CENTS, small, large))


def _merchants(seed: int) -> NDArray[np.int64]:
    """Return the merchant of each terminal, int64[TERMINALS]: most have one terminal or two."""
    return (fractions(seed, "merchant", np.arange(TERMINALS)) * _MERCHANTS).astype(np.int64)


def _acquirers(merchants: NDArray[np.int64], seed: int) -> list[str]:
    numbers = (fractions(seed, "acquirer", merchants) * _ACQUIRERS).astype(np.int64)
    return [f"ACQ{number:02d}" for number in numbers.tolist()]


def _places() -> list[Fields]:
    """Return where on earth each terminal stands: the Handbook's plane, one unit a kilometre."""
    east, north = terminal_positions().T / _KILOMETRES_PER_DEGREE
    latitude = _PLANE_CORNER[0] + north
    longitude = _PLANE_CORNER[1] + east / np.cos(np.radians(latitude))
    return [
        {"lat": lat, "lon": lon}
        for lat, lon in zip(latitude.round(5).tolist(), longitude.round(5).tolist(), strict=True)
    ]


def _chosen(
    seed: int, what: str, numbers: NDArray[np.int64], shares: dict[str, float]
) -> list[str]:
    names = list(shares)
    return [names[i] for i in choices(seed, what, numbers, list(shares.values())).tolist()]
