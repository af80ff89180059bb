"""Servers that do what they should not, each in one way."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

GREETING = b"SSH-2.0-OpenSSH_9.2p1\r\n"


def _hold(sock: socket.socket) -> None:
    """Do nothing until the other side, or the test, ends it."""
    while sock.recv(1 << 16):
        pass


def _silent(sock: socket.socket) -> None:
    _hold(sock)


def _endless_greeting(sock: socket.socket) -> None:
    while True:
        sock.sendall(b"no greeting yet\r\n")
        time.sleep(0.05)


def _one_long_line(sock: socket.socket) -> None:
    while True:
        sock.sendall(b"x" * 4096)
        time.sleep(0.01)


def _greets_and_waits(sock: socket.socket) -> None:
    sock.sendall(GREETING)
    _hold(sock)


def _drips(sock: socket.socket) -> None:
    sock.sendall(GREETING)
    while True:
        sock.sendall(b"\0")
        time.sleep(0.2)


def _garbage(sock: socket.socket) -> None:
    sock.sendall(GREETING + bytes(range(256)) * 40)
    _hold(sock)


def _closes(sock: socket.socket) -> None:
    sock.recv(10)


def _closes_after_greeting(sock: socket.socket) -> None:
    sock.sendall(GREETING)
    sock.recv(100)


def _web_server(sock: socket.socket) -> None:
    sock.recv(100)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    _hold(sock)


def _old_protocol(sock: socket.socket) -> None:
    sock.sendall(b"SSH-1.5-ancient\r\n")
    _hold(sock)


def _bad_utf8(sock: socket.socket) -> None:
    sock.sendall(b"SSH-2.0-\xff\xfe\xfd\r\n" + b"\xff" * 400)
    _hold(sock)


SERVERS: dict[str, tuple[Callable[[socket.socket], None], set[str]]] = {
    "silent": (_silent, {"timeout"}),
    "endless-greeting": (_endless_greeting, {"timeout", "no-ssh"}),
    "one-long-line": (_one_long_line, {"timeout", "no-ssh"}),
    "greets-and-waits": (_greets_and_waits, {"timeout"}),
    "drips": (_drips, {"timeout", "no-ssh", "closed"}),
    "garbage": (_garbage, {"no-ssh", "closed", "timeout"}),
    "closes": (_closes, {"closed", "no-ssh"}),
    "closes-after-greeting": (_closes_after_greeting, {"closed", "no-ssh"}),
    "web-server": (_web_server, {"no-ssh", "timeout", "closed"}),
    "old-protocol": (_old_protocol, {"no-ssh"}),
    "bad-utf8": (_bad_utf8, {"no-ssh", "closed", "timeout"}),
}
"""What each does, and what may be said of it."""


@contextlib.contextmanager
def serve(act: Callable[[socket.socket], None], *, host: str = "127.0.0.1") -> Iterator[int]:
    """Let a server act on every connection, each in a thread of its own; give its port."""
    listener = socket.create_server((host, 0))
    connections: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            connections.append(sock)
            threading.Thread(target=answer, args=(sock,), daemon=True).start()

    def answer(sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            act(sock)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for sock in connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@contextlib.contextmanager
def black_hole(host: str = "127.0.9.9") -> Iterator[int]:
    """Give a port on which connecting gets no answer: its queue of connections is full."""
    listener = socket.create_server((host, 0), backlog=0)
    waiting = []
    for _ in range(4):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        waiting.append(sock)
    try:
        yield listener.getsockname()[1]
    finally:
        for sock in (*waiting, listener):
            sock.close()
