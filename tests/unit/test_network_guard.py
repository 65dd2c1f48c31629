"""The guard that every test stands behind: another machine can't be reached, here or in a child, unseen."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

# An address of the range that is kept for documents: nobody answers there.
NOWHERE = "192.0.2.1"


def attempts(record: Path) -> str:
    """What the record says; it is emptied, since these tests mean to try."""
    text = record.read_text(encoding="utf-8")
    record.write_text("", encoding="utf-8")
    return text


def test_this_process_reaches_no_other_machine(network_record: Path) -> None:
    with socket.socket() as stream, pytest.raises(OSError, match="guard refuses connect"):
        stream.connect((NOWHERE, 443))
    with socket.socket() as stream, pytest.raises(OSError, match="guard refuses connect_ex"):
        stream.connect_ex((NOWHERE, 443))
    with (
        socket.socket(type=socket.SOCK_DGRAM) as datagram,
        pytest.raises(OSError, match="guard refuses sendto"),
    ):
        datagram.sendto(b"", (NOWHERE, 53))
    with pytest.raises(OSError, match="guard refuses getaddrinfo"):
        socket.getaddrinfo("example.org", 443)
    with pytest.raises(OSError, match="guard refuses getaddrinfo"):
        urllib.request.urlopen("https://example.org/model.pth", timeout=1)
    assert len(attempts(network_record).splitlines()) == 5


def test_a_child_reaches_none_either_and_swallowing_the_error_does_not_hide_it(network_record: Path) -> None:
    program = (
        "import socket\ntry: socket.create_connection(('example.org', 443), timeout=1)\nexcept OSError: pass"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert "getaddrinfo 'example.org'" in attempts(network_record)


def test_a_test_that_touches_the_network_fails(tmp_path: Path, network_record: Path) -> None:
    conftest = Path(__file__).parents[1] / "conftest.py"
    (tmp_path / "test_leaking.py").write_text(
        "import socket\n"
        "def test_leaks():\n"
        "    try: socket.create_connection(('example.org', 443), timeout=1)\n"
        "    except OSError: pass\n"
        "def test_is_clean(): pass\n"
    )
    options = ["-q", "-p", "no:cacheprovider", "-p", "conftest", "-c", "/dev/null", "--rootdir", tmp_path]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--confcutdir", conftest.parent, tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=conftest.parent,
    )
    assert run.returncode == 1, run.stdout + run.stderr
    assert "the network was touched: getaddrinfo 'example.org'" in run.stdout
    assert "2 passed, 1 error" in run.stdout
    assert attempts(network_record) == "", "the inner run keeps a record of its own"


def test_this_machine_stays_reachable() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5) as client:
            assert client.getpeername()[0] == "127.0.0.1"
    left, right = socket.socketpair()
    left.close()
    right.close()
