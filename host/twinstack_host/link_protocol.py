"""Messages between a program and the server of an engine, over a stream socket; ``docs/link-protocol.md`` specifies them.

All integers are little-endian. Each message is a header of 8 bytes and a body. A client sends requests, the server one
reply for each, with the request's number.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

MAGIC = 0x4B4C5354
"""First word of a HELLO and of its reply: the bytes ``TSLK``."""
PROTOCOL_VERSION = 1

HEADER = struct.Struct("<IHBB")
"""Bytes of the body, number of the request, operation, status (zero in a request)."""
HELLO = struct.Struct("<IHHI")
"""MAGIC, protocol version, zero, ABI version."""
WELCOME = struct.Struct("<IHHIQQ")
"""The same, and the first byte address and the bytes of the client's part of host memory."""
CSR_READ = struct.Struct("<I")
CSR_WRITE = struct.Struct("<II")
READ = struct.Struct("<QI")
ADDRESS = struct.Struct("<Q")
WORD = struct.Struct("<I")
NANOSECONDS = struct.Struct("<Q")
WAITED = struct.Struct("<IQ")
"""Whether the interrupt is up, and nanoseconds that are left of the wait."""
CONSOLE = struct.Struct("<IQ")
"""Core, and the first byte that is wanted of all that it has printed."""
ERROR = struct.Struct("<I")

MAX_DATA_BYTES = 1 << 16
"""Bytes of host memory that one message may carry."""
MAX_BODY_BYTES = ADDRESS.size + MAX_DATA_BYTES
MAX_TEXT_BYTES = 512
MAX_WAIT_NS = 3600 * 1_000_000_000


class LinkOperation(IntEnum):
    """What a request asks for."""

    HELLO = 1
    CSR_READ = 2
    CSR_WRITE = 3
    READ = 4
    WRITE = 5
    WAIT = 6
    CLOCK = 7
    CONSOLE = 8
    """The only one that needs no HELLO."""


class Status(IntEnum):
    """How a request ended."""

    OK = 0
    REFUSED = 1
    """The body is an errno and a text; the connection goes on."""
    CLOSED = 2
    """Likewise, and the server closes the connection."""


REQUEST_BYTES = {
    LinkOperation.HELLO: (HELLO.size, HELLO.size),
    LinkOperation.CSR_READ: (CSR_READ.size, CSR_READ.size),
    LinkOperation.CSR_WRITE: (CSR_WRITE.size, CSR_WRITE.size),
    LinkOperation.READ: (READ.size, READ.size),
    LinkOperation.WRITE: (ADDRESS.size, MAX_BODY_BYTES),
    LinkOperation.WAIT: (NANOSECONDS.size, NANOSECONDS.size),
    LinkOperation.CLOCK: (0, 0),
    LinkOperation.CONSOLE: (CONSOLE.size, CONSOLE.size),
}
"""Least and most bytes of a request's body."""


class ProtocolError(ValueError):
    """A message that cannot be one."""


@dataclass(frozen=True)
class Message:
    """One message without its length."""

    number: int
    operation: int
    status: int
    body: bytes

    def encode(self) -> bytes:
        return HEADER.pack(len(self.body), self.number, self.operation, self.status) + self.body


class MessageReader:
    """Cuts a byte stream into messages; never holds more than one message and what was fed with it."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    def next(self) -> Message | None:
        """The next whole message, or None.

        Raises
        ------
        ProtocolError
            If the next message is longer than any may be.
        """
        if len(self._data) < HEADER.size:
            return None
        length, number, operation, status = HEADER.unpack_from(self._data)
        if length > MAX_BODY_BYTES:
            raise ProtocolError(f"a body must have at most {MAX_BODY_BYTES} bytes, not {length}")
        if len(self._data) < HEADER.size + length:
            return None
        body = bytes(self._data[HEADER.size : HEADER.size + length])
        del self._data[: HEADER.size + length]
        return Message(number, operation, status, body)


def check_request(message: Message) -> LinkOperation:
    """The operation of a well-formed request.

    Raises
    ------
    ProtocolError
        If it is none.
    """
    if message.operation not in LinkOperation._value2member_map_:
        raise ProtocolError(f"operation must be 1 to {max(LinkOperation)}, not {message.operation}")
    operation = LinkOperation(message.operation)
    if message.status:
        raise ProtocolError(f"status must be zero in a request, not {message.status}")
    least, most = REQUEST_BYTES[operation]
    if not least <= len(message.body) <= most:
        raise ProtocolError(f"the body of {operation.name} must have {least} to {most} bytes, not {len(message.body)}")
    return operation


def encode_error(code: int, text: str) -> bytes:
    return ERROR.pack(code) + text.encode()[:MAX_TEXT_BYTES]


def decode_error(body: bytes) -> tuple[int, str]:
    """errno and text of a reply that is not OK; raises ProtocolError if it has none."""
    if len(body) < ERROR.size:
        raise ProtocolError(f"an error must have at least {ERROR.size} bytes, not {len(body)}")
    return ERROR.unpack_from(body)[0], body[ERROR.size :].decode("utf-8", "replace")
