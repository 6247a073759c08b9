"""ISO 4217 currencies and the number of decimals of their minor unit.

Source: ISO 4217 list one (active codes of countries), without funds, metals and test codes.
"""

from __future__ import annotations

_DECIMALS_0 = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_DECIMALS_3 = "BHD IQD JOD KWD LYD OMR TND"
_DECIMALS_4 = "CLF UYW"
_DECIMALS_2 = """
AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD
CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD
HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD
MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON
RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD
TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG
"""

#: Currency code → decimals of its minor unit (2 for EUR: 100 cents).
MINOR_UNIT_DECIMALS: dict[str, int] = {
    code: decimals
    for decimals, codes in enumerate((_DECIMALS_0, "", _DECIMALS_2, _DECIMALS_3, _DECIMALS_4))
    for code in codes.split()
}


def minor_units_per_major(currency: str) -> int:
    """Return how many minor units make one major unit.

    Raises
    ------
    KeyError
        No such currency.

    Examples
    --------
    >>> minor_units_per_major("EUR"), minor_units_per_major("JPY"), minor_units_per_major("KWD")
    (100, 1, 1000)
    """
    return int(10 ** MINOR_UNIT_DECIMALS[currency])


def format_major(amount_minor: int, currency: str) -> str:
    """Write an amount for people, exactly, in major units.

    Examples
    --------
    >>> format_major(12345, "EUR"), format_major(500, "JPY"), format_major(7, "KWD")
    ('123.45', '500', '0.007')
    """
    decimals = MINOR_UNIT_DECIMALS[currency]
    if decimals == 0:
        return str(amount_minor)
    major, minor = divmod(amount_minor, 10**decimals)
    return f"{major}.{minor:0{decimals}d}"
