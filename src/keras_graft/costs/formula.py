"""`Formula`: a number that depends on unknown lengths, as `64 x length + 2 x length^2`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

Powers = tuple[tuple[str, int], ...]
"""The lengths in one term, each with its power, in the order of their names."""


class Unknown(Exception):
    """A number is not known; the message is the reason."""


class Formula:
    """A sum of terms: a factor times powers of unknown lengths. It never changes.

    Args:
        terms: The factors by their powers.

    >>> length = Formula.of("length")
    >>> print(3 * length * length + 64 * length / 2 + 7)
    7 + 32 x length + 3 x length^2
    >>> length - length
    0
    """

    def __init__(self, terms: Mapping[Powers, Fraction]) -> None:
        self.terms = dict(terms)

    @classmethod
    def of(cls, name: str) -> Formula:
        """Return the formula that is one unknown length."""
        return cls({((name, 1),): Fraction(1)})

    def __add__(self, other: Any) -> Any:
        terms = dict(self.terms)
        for powers, factor in _terms(other).items():
            terms[powers] = terms.get(powers, Fraction(0)) + factor
        return _number(terms)

    def __mul__(self, other: Any) -> Any:
        terms: dict[Powers, Fraction] = {}
        for powers, factor in self.terms.items():
            for others, by in _terms(other).items():
                joined = dict(powers)
                for name, power in others:
                    joined[name] = joined.get(name, 0) + power
                key = tuple(sorted(joined.items()))
                terms[key] = terms.get(key, Fraction(0)) + factor * by
        return _number(terms)

    def __truediv__(self, other: Any) -> Any:
        if isinstance(other, Formula):
            return _quotient(self, other)
        return self * (1 / Fraction(other))

    def __sub__(self, other: Any) -> Any:
        return self + other * -1

    def __rsub__(self, other: Any) -> Any:
        return self * -1 + other

    __radd__ = __add__
    __rmul__ = __mul__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Formula) and self.terms == other.terms

    def __hash__(self) -> int:
        return hash(frozenset(self.terms.items()))

    def at(self, length: int) -> Fraction:
        """Return the value where each unknown length is `length`."""
        return sum(
            (f * Fraction(length) ** sum(p for _, p in powers) for powers, f in self.terms.items()),
            Fraction(0),
        )

    def __str__(self) -> str:
        def term(powers: Powers, factor: Fraction) -> str:
            names = [n if p == 1 else f"{n}^{p}" for n, p in powers]
            whole = factor.denominator == 1
            return " x ".join([f"{int(factor):,}" if whole else f"{float(factor):,.4g}", *names])

        ordered = sorted(self.terms.items(), key=lambda t: (sum(p for _, p in t[0]), t[0]))
        return " + ".join(term(*item) for item in ordered)

    __repr__ = __str__


Number = int | Formula
"""A number, or a formula of unknown lengths."""


class Lost:
    """An axis whose length is not known: whoever computes with it learns why."""

    def __init__(self, why: str) -> None:
        self.why = why

    def _refused(self, *_: Any) -> Any:
        raise Unknown(self.why)

    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = _refused
    __truediv__ = __rtruediv__ = __floordiv__ = __index__ = __int__ = _refused


def product(lengths: Iterable[Any]) -> Any:
    """Return the product of lengths.

    >>> product([2, 3, Formula.of("n")])
    6 x n
    """
    found: Any = 1
    for length in lengths:
        found = found * length
    return found


def divided(number: Any, by: Any) -> Any:
    """Return a number divided by another one.

    >>> divided(12, 4), divided(Formula.of("n"), 2), divided(6, Formula.of("n") * 0 + 3)
    (3, 0.5 x n, 2)
    """
    if isinstance(number, Lost) or isinstance(by, Lost):
        return number * by
    if not isinstance(number, Formula) and not isinstance(by, Formula):
        return _number({(): Fraction(number) / Fraction(by)})
    return (number if isinstance(number, Formula) else Formula(_terms(number))) / by


def at_one(number: Any) -> int:
    """Return a number; of a formula, its value where each unknown length is one.

    >>> at_one(5), at_one(2 * Formula.of("n"))
    (5, 2)
    """
    return round(number.at(1)) if isinstance(number, Formula) else number


def _terms(number: Any) -> Mapping[Powers, Fraction]:
    if isinstance(number, Formula):
        return number.terms
    if isinstance(number, Lost):
        raise Unknown(number.why)
    return {(): Fraction(number)} if number else {}


def _number(terms: Mapping[Powers, Fraction]) -> Number:
    """Return a formula, or the plain number that it is."""
    kept = {powers: factor for powers, factor in terms.items() if factor}
    if not kept:
        return 0
    if list(kept) == [()] and kept[()].denominator == 1:
        return int(kept[()])
    return Formula(kept)


def _quotient(number: Formula, by: Formula) -> Number:
    """Return a formula divided by one of a single term."""
    if len(by.terms) != 1:
        raise Unknown(f"({number}) / ({by}) is no formula of this kind")
    ((below, factor),) = by.terms.items()
    terms: dict[Powers, Fraction] = {}
    for powers, own in number.terms.items():
        left = dict(powers)
        for name, power in below:
            left[name] = left.get(name, 0) - power
        if any(power < 0 for power in left.values()):
            raise Unknown(f"({number}) / ({by}) is no formula of this kind")
        terms[tuple(sorted((n, p) for n, p in left.items() if p))] = own / factor
    return _number(terms)
