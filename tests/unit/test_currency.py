"""Currencies and the decimals of their minor units, against facts written out by hand."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudstream.currency import MINOR_UNIT_DECIMALS, format_major, minor_units_per_major

#: ISO 4217: all currencies of countries whose minor unit is not a hundredth.
WHOLE = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
THOUSANDTHS = "BHD IQD JOD KWD LYD OMR TND"
TEN_THOUSANDTHS = "CLF UYW"
NOT_HUNDREDTHS = {
    code: decimals
    for codes, decimals in ((WHOLE, 0), (THOUSANDTHS, 3), (TEN_THOUSANDTHS, 4))
    for code in codes.split()
}
TRADED_MOST = "USD EUR GBP CNY AUD CAD CHF HKD SGD SEK NOK NZD INR MXN TWD ZAR BRL DKK PLN THB ILS"
NO_MONEY = ["XXX", "XTS", "XAU", "XAG", "XDR", "EUro", "eur", "", "EU", "DEM", "BTC"]


def test_every_code_is_three_capitals_and_its_decimals_are_isos() -> None:
    assert all(re.fullmatch("[A-Z]{3}", code) for code in MINOR_UNIT_DECIMALS)
    found = {code: decimals for code, decimals in MINOR_UNIT_DECIMALS.items() if decimals != 2}
    assert found == NOT_HUNDREDTHS
    assert 150 <= len(MINOR_UNIT_DECIMALS) <= 190


@pytest.mark.parametrize("code", TRADED_MOST.split())
def test_the_currencies_traded_most_are_there(code: str) -> None:
    assert minor_units_per_major(code) == 100


@pytest.mark.parametrize("code", NO_MONEY)
def test_what_is_no_countrys_money_is_not_there(code: str) -> None:
    with pytest.raises(KeyError):
        minor_units_per_major(code)


@pytest.mark.parametrize(
    ("amount_minor", "code", "text"),
    [
        (0, "EUR", "0.00"),
        (5, "EUR", "0.05"),
        (50, "EUR", "0.50"),
        (100, "EUR", "1.00"),
        (123_456, "USD", "1234.56"),
        (10**12, "EUR", "10000000000.00"),
        (0, "JPY", "0"),
        (10**12, "JPY", "1000000000000"),
        (1, "KWD", "0.001"),
        (1_000, "KWD", "1.000"),
        (12_345, "CLF", "1.2345"),
    ],
)
def test_an_amount_is_written_in_major_units(amount_minor: int, code: str, text: str) -> None:
    assert format_major(amount_minor, code) == text


@given(st.integers(0, 10**12), st.sampled_from(sorted(MINOR_UNIT_DECIMALS)))
@settings(deadline=None, derandomize=True)
def test_a_written_amount_is_exact(amount_minor: int, code: str) -> None:
    text = format_major(amount_minor, code)
    assert Decimal(text) * minor_units_per_major(code) == amount_minor
    assert len(text.partition(".")[2]) == MINOR_UNIT_DECIMALS[code]
