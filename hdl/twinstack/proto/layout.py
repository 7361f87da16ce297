"""Little-endian word layouts: named bit fields in 32-bit words, packed and unpacked as bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

WORD_BITS = 32
WORD_BYTES = 4


@dataclass(frozen=True)
class Field:
    """A run of bits: ``width`` bits from bit ``lsb`` of word ``word``; wider than 32 only from bit 0 of a word."""

    name: str
    word: int
    lsb: int
    width: int
    doc: str

    @property
    def mask(self) -> int:
        return (1 << self.width) - 1

    @property
    def bit(self) -> int:
        """Position of the field's lowest bit in the whole layout."""
        return self.word * WORD_BITS + self.lsb


@dataclass(frozen=True)
class Layout:
    """``words`` little-endian 32-bit words with named fields; bits that no field names are reserved and zero.

    Raises
    ------
    ValueError
        If two fields overlap, one leaves the layout, a name is used twice, or a text is missing.
    """

    name: str
    words: int
    doc: str
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        used = 0
        names: set[str] = set()
        for field in self.fields:
            if field.name in names:
                raise ValueError(f"{self.name}: field names must be unique, not {field.name!r} twice")
            names.add(field.name)
            if not field.doc:
                raise ValueError(f"{self.name}.{field.name}: a field needs a text, not {field.doc!r}")
            if field.width < 1 or field.bit + field.width > self.words * WORD_BITS:
                raise ValueError(f"{self.name}.{field.name} must lie within {self.words} words, not {field!r}")
            if field.lsb and field.lsb + field.width > WORD_BITS:
                raise ValueError(f"{self.name}.{field.name} must not cross a word boundary, not {field!r}")
            bits = field.mask << field.bit
            if used & bits:
                raise ValueError(f"{self.name}.{field.name} must not overlap another field, not {field!r}")
            used |= bits

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    @property
    def size_bytes(self) -> int:
        return self.words * WORD_BYTES

    def pack(self, values: Mapping[str, int]) -> bytes:
        """Encode ``values`` by field name; fields that are not named are zero.

        Raises
        ------
        KeyError
            If a name is not a field.
        ValueError
            If a value does not fit its field.
        """
        bits = 0
        for name, value in values.items():
            field = self[name]
            if not 0 <= value <= field.mask:
                raise ValueError(f"{self.name}.{name} must fit in {field.width} unsigned bits, not {value!r}")
            bits |= value << field.bit
        return bits.to_bytes(self.size_bytes, "little")

    def unpack(self, data: bytes) -> dict[str, int]:
        """Decode ``size_bytes`` bytes into a value for each field."""
        if len(data) != self.size_bytes:
            raise ValueError(f"{self.name} must be {self.size_bytes} bytes, not {len(data)!r}")
        bits = int.from_bytes(data, "little")
        return {field.name: bits >> field.bit & field.mask for field in self.fields}
