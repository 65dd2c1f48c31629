"""No test reaches the network: every socket to another machine is refused and written down, in child processes too.

Python imports this by itself in each process that finds the folder on PYTHONPATH; conftest.py puts it there and
imports it for the tests' own process. What a library swallows is still in the record, and fails the test.
"""

import os
import socket
from pathlib import Path

RECORD = "FEATPROBE_TESTS_NETWORK_RECORD"
_HERE = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"}  # noqa: S104 - nothing is bound


class NetworkRefusedError(OSError):
    """A test, or a program that it started, wanted to reach another machine."""


def _is_here(host):
    host = host.decode() if isinstance(host, bytes) else host
    return host is None or host in _HERE or host.startswith("127.")


def _refuse(what, where):
    if record := os.environ.get(RECORD):
        with Path(record).open("a", encoding="utf-8") as stream:
            stream.write(f"{what} {where!r}\n")
    raise NetworkRefusedError(f"the tests' guard refuses {what} {where!r}")


def _guarded(name, address_at):
    real = getattr(socket.socket, name)

    def call(self, *arguments):
        address = arguments[address_at] if len(arguments) > abs(address_at) - 1 else None
        away = isinstance(address, tuple) and not _is_here(address[0])
        if away and self.family in {socket.AF_INET, socket.AF_INET6}:
            _refuse(name, address)
        return real(self, *arguments)

    return call


def _guarded_lookup(name):
    real = getattr(socket, name)

    def call(host, *arguments, **options):
        if not _is_here(host):
            _refuse(name, host)
        return real(host, *arguments, **options)

    return call


def install():
    """Put the guard in place, once per process."""
    if getattr(socket, "guarded_by_featprobe_tests", False):
        return
    for name in ("connect", "connect_ex"):
        setattr(socket.socket, name, _guarded(name, 0))
    socket.socket.sendto = _guarded("sendto", -1)
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        setattr(socket, name, _guarded_lookup(name))
    socket.guarded_by_featprobe_tests = True


if os.environ.get(RECORD):
    install()
