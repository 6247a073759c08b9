"""The proxy does what it is told, seen from both of its ends."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from proxy import END_TXN, PRODUCE, KafkaProxy, TcpProxy

from fraudstream.local.ready import HOST, find_free_port

PATIENCE_S = 10.0
#: What does not come within this does not come.
SILENCE_S = 0.2
#: API key, version, correlation id, length of the client id; and the client id.
_HEADER, _CLIENT = struct.Struct(">hhih"), b"test"
_HEADER_BYTES = _HEADER.size + len(_CLIENT)


def receive(connection: socket.socket) -> bytes:
    """Read a frame without its length; b"" at the end or when the connection is cut."""
    try:
        head = _read(connection, 4)
        return _read(connection, struct.unpack(">i", head)[0]) if head else b""
    except ConnectionError:
        return b""


def _read(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            return b""
        found += piece
    return found


def send(connection: socket.socket, frame: bytes) -> None:
    connection.sendall(struct.pack(">i", len(frame)) + frame)


class Server:
    """Answers each request with its correlation id and its body, and remembers the body."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.address = (HOST, int(self._listener.getsockname()[1]))
        self.got: list[bytes] = []
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            while frame := receive(connection):
                body = frame[_HEADER_BYTES:]
                self.got.append(body)
                try:
                    send(connection, frame[4:8] + body)
                except OSError:
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def await_got(self, count: int) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while len(self.got) < count and time.monotonic() < deadline_s:
            time.sleep(0.005)
        assert len(self.got) == count


class Client:
    """Sends requests as Kafka's clients do."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), PATIENCE_S)
        self._sent = 0

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, api_key: int, body: bytes) -> None:
        self._sent += 1
        send(self._socket, _HEADER.pack(api_key, 0, self._sent, len(_CLIENT)) + _CLIENT + body)

    def receive(self, timeout_s: float = PATIENCE_S) -> bytes:
        """Give an answer's body; b"" once the connection is cut; raise when nothing comes."""
        self._socket.settimeout(timeout_s)
        return receive(self._socket)[4:]

    def assert_silence(self) -> None:
        with pytest.raises(TimeoutError):
            self.receive(SILENCE_S)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


@pytest.fixture
def proxy(server: Server) -> Iterator[KafkaProxy]:
    with KafkaProxy(server.address) as made:
        yield made


@pytest.fixture
def client(proxy: KafkaProxy) -> Iterator[Client]:
    with Client(proxy.port) as made:
        yield made


def test_requests_pass_and_are_counted(client: Client, proxy: KafkaProxy) -> None:
    for size in (1, 1_000, 1_000_000):
        client.send(PRODUCE, b"x" * size)
        assert client.receive() == b"x" * size
    assert proxy.requests() == {PRODUCE: 3}
    assert proxy.connections() == 1


def test_a_held_request_arrives_when_it_is_released_and_so_does_what_follows(
    client: Client, proxy: KafkaProxy, server: Server
) -> None:
    held = proxy.hold(END_TXN)
    client.send(PRODUCE, b"before")
    client.send(END_TXN, b"held")
    client.send(PRODUCE, b"behind")
    assert held.wait(PATIENCE_S)
    assert client.receive() == b"before"
    client.assert_silence()
    assert server.got == [b"before"]
    held.release()
    assert [client.receive(), client.receive()] == [b"held", b"behind"]
    client.send(END_TXN, b"later")
    assert client.receive() == b"later"


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_held_request_outlives_its_client(
    is_reset: bool, client: Client, proxy: KafkaProxy, server: Server
) -> None:
    held = proxy.hold(END_TXN)
    client.send(END_TXN, b"held")
    assert held.wait(PATIENCE_S)
    if is_reset:
        held.reset_client()
        assert client.receive() == b""
    else:
        client.__exit__()
    with Client(proxy.port) as second:
        second.send(END_TXN, b"again")
        assert second.receive() == b"again"
        held.release()
        server.await_got(2)
    assert server.got == [b"again", b"held"]


def test_a_held_request_can_be_dropped(client: Client, proxy: KafkaProxy, server: Server) -> None:
    held = proxy.hold(END_TXN)
    client.send(END_TXN, b"held")
    assert held.wait(PATIENCE_S)
    held.drop()
    assert client.receive() == b""
    assert server.got == []


def test_a_rule_is_for_some_requests_only(client: Client, proxy: KafkaProxy) -> None:
    held = proxy.hold(PRODUCE, client="test", containing="worker-1", skip=1)
    others = proxy.hold(PRODUCE, client="someone")
    for body in (b"worker-0", b"worker-1 first"):
        client.send(PRODUCE, body)
        assert client.receive() == body
    client.send(PRODUCE, b"worker-1 second")
    assert held.wait(PATIENCE_S)
    assert (held.count, others.count) == (1, 0)


@pytest.mark.parametrize("then", ["stall", "reset"])
def test_an_answer_is_lost(then: str, client: Client, proxy: KafkaProxy, server: Server) -> None:
    lost = proxy.drop_response(END_TXN, then="stall" if then == "stall" else "reset")
    client.send(END_TXN, b"applied")
    assert lost.wait(PATIENCE_S)
    assert server.got == [b"applied"]
    if then == "stall":
        client.assert_silence()
    else:
        assert client.receive() == b""


def test_delay_is_for_each_way(client: Client, proxy: KafkaProxy) -> None:
    proxy.delay(0.1)
    started_s = time.monotonic()
    client.send(PRODUCE, b"slow")
    client.send(PRODUCE, b"next")
    assert [client.receive(), client.receive()] == [b"slow", b"next"]
    assert 0.2 <= time.monotonic() - started_s < PATIENCE_S
    proxy.heal()
    client.send(PRODUCE, b"quick")
    assert client.receive(0.2) == b"quick"


def test_a_black_hole_keeps_everything_back(
    client: Client, proxy: KafkaProxy, server: Server
) -> None:
    proxy.black_hole()
    client.send(PRODUCE, b"kept")
    client.assert_silence()
    with Client(proxy.port) as second:
        second.send(PRODUCE, b"new")
        second.assert_silence()
        assert server.got == []
        proxy.heal()
        assert second.receive() == b"new"
    assert client.receive() == b"kept"


def test_all_connections_are_cut(client: Client, proxy: KafkaProxy) -> None:
    client.send(PRODUCE, b"x")
    assert client.receive() == b"x"
    assert proxy.reset_all() == 1
    assert client.receive() == b""


def test_a_server_that_is_away_cuts_the_client() -> None:
    with KafkaProxy((HOST, find_free_port())) as proxy, Client(proxy.port) as client:
        client.send(PRODUCE, b"x")
        assert client.receive() == b""


def test_a_plain_proxy_cuts_after_the_server_has_applied(server: Server) -> None:
    with TcpProxy(server.address) as proxy, Client(proxy.port) as client:
        cut = proxy.cut_after_apply(containing="apply")
        client.send(PRODUCE, b"look")
        assert client.receive() == b"look"
        client.send(PRODUCE, b"apply")
        assert client.receive() == b""
        assert cut.wait(PATIENCE_S)
        assert server.got == [b"look", b"apply"]
        with Client(proxy.port) as second:
            second.send(PRODUCE, b"apply")
            assert second.receive() == b"apply"
