"""A node's side of a port-forward, as the kubelet plays it: a websocket of numbered channels."""

import base64
import hashlib
import io
import struct
from http.server import BaseHTTPRequestHandler

PROTOCOL = "v4.channel.k8s.io"
DATA, ERROR = 0, 1
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Of RFC 6455."""
_BINARY, _CLOSE = 2, 8
_PIECE = 100
"""Answers come in pieces, and break anywhere."""


def begin(handler: BaseHTTPRequestHandler, port: int) -> None:
    """Answers the upgrade; both channels say of which port they are."""
    key = handler.headers["Sec-WebSocket-Key"].encode()
    proof = base64.b64encode(hashlib.sha1(key + _MAGIC).digest()).decode()
    handler.send_response(101)
    handler.send_header("Upgrade", "websocket")
    handler.send_header("Connection", "Upgrade")
    handler.send_header("Sec-WebSocket-Accept", proof)
    handler.send_header("Sec-WebSocket-Protocol", PROTOCOL)
    handler.end_headers()
    for channel in (DATA, ERROR):
        send(handler, channel, content=struct.pack("<H", port))


def send(handler: BaseHTTPRequestHandler, channel: int, *, content: bytes) -> None:
    """In pieces; nothing is a piece, too."""
    for begins in range(0, max(1, len(content)), _PIECE):
        _frame(handler, _BINARY, content=bytes([channel]) + content[begins : begins + _PIECE])


def end(handler: BaseHTTPRequestHandler) -> None:
    """No more comes."""
    _frame(handler, _CLOSE, content=struct.pack(">H", 1000))
    handler.close_connection = True


def target_of(handler: BaseHTTPRequestHandler) -> str:
    """What the HTTP request asks for that comes on the data channel."""
    content = b""
    while b"\r\n\r\n" not in content:
        channel, *_ = piece = _received(handler.rfile)
        assert channel == DATA
        content += piece[1:]
    method, target, version = content.split(b"\r\n")[0].decode().split()
    assert (method, version) == ("GET", "HTTP/1.1")
    return target


def http(code: int, body: bytes) -> bytes:
    """An answer in chunks, as Prometheus' long ones are."""
    head = f"HTTP/1.1 {code} So\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


def _frame(handler: BaseHTTPRequestHandler, opcode: int, *, content: bytes) -> None:
    assert len(content) < 126
    handler.wfile.write(bytes([0x80 | opcode, len(content)]) + content)


def _received(file: io.BufferedIOBase) -> bytes:
    """A frame's content: of clients they are masked."""
    _, size = file.read(2)
    size &= 0x7F
    if size == 126:
        (size,) = struct.unpack(">H", file.read(2))
    mask, content = file.read(4), file.read(size)
    return bytes(byte ^ mask[at % 4] for at, byte in enumerate(content))
