"""The proxy's own process: copies bytes both ways, and does to them what it is told.

    python -I -S proxy_process.py kafka|tcp TARGET_HOST TARGET_PORT

It is a process of its own so that the test's interpreter lock adds nothing to what is measured.
It needs the standard library alone. The first line on standard output is ``{"port": …}``; then
each line on standard input is a request and has one line for an answer. The end of standard input
is its end.

Everything that passes lies in a *lane*, one for each direction of each connection, and leaves it
in order. An item at a lane's head waits until it is due (``delay``), until it is let go (``hold``),
and while the network is a black hole. The end of a connection is an item too, so what was sent
before it still arrives: a request that was delayed outlives the client that sent it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

#: How long the far side of a connection with a held request stays open after it was let go.
LINGER_S = 2.0
#: Where in a frame the words of a rule are looked for: what names a client stands at the beginning.
HEAD_BYTES = 1_024
_RESET_NOW = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Rule:
    """Which requests are caught, and how many of them; the rest passes."""

    kind: str
    api_key: int | None
    client: bytes | None
    containing: bytes | None
    skip: int
    count: int
    then: str
    caught: int = 0
    is_open: bool = False
    links: list[Link] = field(default_factory=list)

    def catches(self, api_key: int, client: bytes, head: bytes) -> bool:
        """Say whether a request is meant, and count it."""
        if self.count <= 0 or self.api_key not in (None, api_key):
            return False
        if self.client is not None and self.client != client:
            return False
        if self.containing is not None and self.containing not in head:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.count -= 1
        return True


@dataclass
class Item:
    """Bytes on their way; None is the end of the connection."""

    data: bytes | None
    due_s: float
    rule: Rule | None = None


class Lane:
    """One direction of a connection: first in, first out."""

    def __init__(self, proxy: Proxy, end: Callable[[], None]) -> None:
        self._proxy = proxy
        self._end = end
        self._items: deque[Item] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.sink: asyncio.Transport | None = None
        self.is_stalled = False

    def put(self, data: bytes | None, rule: Rule | None = None) -> None:
        """Add to the end, and let go what may go."""
        self._items.append(Item(data, self._proxy.loop.time() + self._proxy.delay_s, rule))
        self.flush()

    def flush(self) -> None:
        """Let go what may go."""
        if self._proxy.is_black_hole or self.is_stalled or self.sink is None:
            return
        while self._items:
            item = self._items[0]
            if item.rule is not None and not item.rule.is_open:
                return
            if item.due_s > self._proxy.loop.time():
                self._wait_for(item.due_s)
                return
            self._items.popleft()
            if item.data is None:
                self._end()
            elif not self.sink.is_closing():
                self.sink.write(item.data)

    def clear(self) -> None:
        """Forget what is on its way."""
        self._items.clear()

    def _wait_for(self, due_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._proxy.loop.call_at(due_s, self.flush)


class Side(asyncio.Protocol):
    """The client's or the server's end of a connection."""

    def __init__(self, take: Callable[[bytes], None], ended: Callable[[], None]) -> None:
        self._take = take
        self._ended = ended
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended()

    def reset(self) -> None:
        """End it as a network does that was cut: the other end reads an error, not an end."""
        if self.transport is not None and not self.transport.is_closing():
            raw = self.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_NOW)
            self.transport.abort()


class Link:
    """A client's connection and ours to the server."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._was_held = False
        #: By correlation id: whose answer will not come back.
        self._doomed: dict[int, Rule] = {}
        self.up = Lane(proxy, self._end_server)
        self.down = Lane(proxy, self._end_client)
        self.client = Side(self._from_client, lambda: self.up.put(None))
        self.server = Side(self._from_server, lambda: self.down.put(None))
        self._requests, self._answers = Frames(), Frames()
        proxy.links.add(self)

    async def connect(self) -> None:
        """Reach the server; the client is cut off when it is not there."""
        try:
            await self._proxy.loop.create_connection(lambda: self.server, *self._proxy.target)
        except OSError:
            self.client.reset()
            self._proxy.links.discard(self)
            return
        self.up.sink, self.down.sink = self.server.transport, self.client.transport
        self.up.flush()

    def reset(self) -> None:
        """Cut both ends; what is on its way is lost."""
        for lane in (self.up, self.down):
            lane.clear()
        self.client.reset()
        self.server.reset()

    def _end_server(self) -> None:
        if self.server.transport is not None:
            wait_s = LINGER_S if self._was_held else 0.0
            self._proxy.loop.call_later(wait_s, self.server.transport.close)
        self._proxy.links.discard(self)

    def _end_client(self) -> None:
        if self.client.transport is not None:
            self.client.transport.close()

    def _from_client(self, data: bytes) -> None:
        if self._proxy.is_kafka:
            for frame in self._requests.feed(data):
                self._pass_request(frame)
            return
        rule = self._proxy.find_rule(0, b"", data)
        if rule is not None:
            self._doomed[0] = rule
        self.up.put(data)

    def _pass_request(self, frame: bytes) -> None:
        api_key, correlation, client = parse_header(frame)
        self._proxy.requests[api_key] += 1
        rule = self._proxy.find_rule(api_key, client, frame[:HEAD_BYTES])
        if rule is not None and rule.kind == "hold":
            self._was_held = True
            rule.caught += 1
            rule.links.append(self)
            self.up.put(frame, rule)
            return
        if rule is not None:
            self._doomed[correlation] = rule
        self.up.put(frame)

    def _from_server(self, data: bytes) -> None:
        if not self._proxy.is_kafka:
            self._pass_answer(0, data)
            return
        for frame in self._answers.feed(data):
            self._pass_answer(struct.unpack_from(">i", frame, 4)[0], frame)

    def _pass_answer(self, correlation: int, data: bytes) -> None:
        rule = self._doomed.pop(correlation, None)
        if rule is not None:
            rule.caught += 1
            rule.links.append(self)
            if rule.then == "reset":
                self.client.reset()
            else:
                self.down.is_stalled = True  # behind what is lost, nothing arrives
        self.down.put(data)


class Frames:
    """Cuts a stream into Kafka's frames: four bytes of length, and so many more."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add what came; give what is complete."""
        self._bytes += data
        start = 0
        while len(self._bytes) - start >= 4:
            end = start + 4 + struct.unpack_from(">i", self._bytes, start)[0]
            if end > len(self._bytes):
                break
            yield bytes(self._bytes[start:end])
            start = end
        del self._bytes[:start]


def parse_header(frame: bytes) -> tuple[int, int, bytes]:
    """Read a request's API key, correlation id and client id."""
    api_key, _version, correlation, length = struct.unpack_from(">hhih", frame, 4)
    return api_key, correlation, frame[14 : 14 + max(length, 0)]


class Proxy:
    """All connections, and what is done to them."""

    def __init__(self, target: tuple[str, int], *, is_kafka: bool) -> None:
        self.target = target
        self.is_kafka = is_kafka
        self.loop = asyncio.get_running_loop()
        self.links: set[Link] = set()
        self.delay_s = 0.0
        self.is_black_hole = False
        self.requests: Counter[int] = Counter()
        self._rules: list[Rule] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self) -> Side:
        """Take a client's connection."""
        link = Link(self)
        task = self.loop.create_task(link.connect())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return link.client

    def find_rule(self, api_key: int, client: bytes, head: bytes) -> Rule | None:
        """Give the first rule that catches a request."""
        return next((r for r in self._rules if r.catches(api_key, client, head)), None)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what the test asks for."""
        do = request.pop("do")
        if "rule" in request:  # one that is there already
            return self._steer(do, self._rules[request["rule"]])
        calls: dict[str, Callable[..., dict[str, Any]]] = {
            "rule": self._add_rule,
            "delay": self._set_delay,
            "black_hole": self._set_black_hole,
            "reset_all": self._reset_all,
            "clear": self._clear,
            "counts": self._count,
        }
        return calls[do](**request)

    def _set_delay(self, seconds: float) -> dict[str, Any]:
        self.delay_s = seconds
        return {}

    def _set_black_hole(self, is_on: bool) -> dict[str, Any]:
        self.is_black_hole = is_on
        self._flush()
        return {}

    def _reset_all(self) -> dict[str, Any]:
        cut = list(self.links)
        for link in cut:
            link.reset()
        return {"connections": len(cut)}

    def _clear(self) -> dict[str, Any]:
        for rule in self._rules:
            self._steer("drop", rule)
        return {}

    def _count(self) -> dict[str, Any]:
        return {"requests": self.requests, "connections": len(self.links)}

    def _add_rule(self, details: dict[str, Any]) -> dict[str, Any]:
        for name in ("client", "containing"):
            if details[name] is not None:
                details[name] = details[name].encode()
        self._rules.append(Rule(**details))
        return {"rule": len(self._rules) - 1}

    def _steer(self, what: str, rule: Rule) -> dict[str, Any]:
        match what:
            case "release":
                rule.is_open, rule.count = True, 0
                self._flush()
            case "reset_client":
                for link in rule.links:
                    link.client.reset()
            case "drop":
                rule.count = 0
                for link in rule.links:
                    link.reset()
        return {"caught": rule.caught}

    def _flush(self) -> None:
        for link in list(self.links):
            link.up.flush()
            link.down.flush()


class Control(asyncio.Protocol):
    """Standard input: requests."""

    def __init__(self, proxy: Proxy, ended: asyncio.Event) -> None:
        self._proxy = proxy
        self._ended = ended
        self._unread = b""

    def data_received(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            say(self._proxy.answer(json.loads(line)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()


def say(answer: dict[str, Any]) -> None:
    """Answer with a line."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


async def serve(kind: str, host: str, port: int) -> None:
    """Copy until standard input ends."""
    proxy = Proxy((host, port), is_kafka=kind == "kafka")
    server = await proxy.loop.create_server(proxy.accept, "127.0.0.1", 0)
    say({"port": server.sockets[0].getsockname()[1]})
    ended = asyncio.Event()
    await proxy.loop.connect_read_pipe(lambda: Control(proxy, ended), sys.stdin)
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
