"""TCP proxies before Kafka and Valkey that lose, delay and cut exactly what a test wants.

Each copies in a process of its own (``proxy_process.py``), steered over a pipe: the test's
interpreter lock adds nothing to the latencies that it measures. Every call here returns once the
proxy has done it, from any thread::

    with KafkaProxy(("127.0.0.1", broker_port)) as proxy:   # the broker advertises proxy.port
        held = proxy.hold(END_TXN, containing="test-1-0-0")  # the next EndTxn of this producer
        assert held.wait(10)                                # it lies in the proxy
        held.reset_client()                                 # or let it time out: socket.timeout.ms
        ...                                                 # the client went on meanwhile
        held.release()                                      # now the broker gets it
        lost = proxy.drop_response(END_TXN, then="reset")   # committed, and nobody is told
        proxy.delay(0.1)                                    # each direction: 200 ms a round trip
        proxy.black_hole(); proxy.heal(); proxy.reset_all()

A held request also holds what its client sends behind it on the same connection, as TCP does. The
end of the client's connection reaches the broker behind the request that was let go.
A broker that is not there looks like a connection that is cut at once, not like one refused.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Literal, Self

PRODUCE, OFFSET_COMMIT, JOIN_GROUP, HEARTBEAT = 0, 8, 11, 12
INIT_PRODUCER_ID, ADD_PARTITIONS_TO_TXN, ADD_OFFSETS_TO_TXN = 22, 24, 25
END_TXN, TXN_OFFSET_COMMIT = 26, 28

_PROGRAM = Path(__file__).with_name("proxy_process.py")
_POLL_INTERVAL_S = 0.002
_END_TIMEOUT_S = 5.0


class _Proxy:
    """A running proxy.

    Parameters
    ----------
    target
        Host and port of the server. It need not be there yet.
    """

    _KIND: str

    def __init__(self, target: tuple[str, int]) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PROGRAM), self._KIND, target[0], str(target[1])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._read()["port"])

    def __enter__(self) -> Self:
        """Give it; it runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it; open connections are cut."""
        self.close()

    def close(self) -> None:
        """End it; open connections are cut."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def delay(self, seconds: float) -> None:
        """Let everything take so long, each way; 0 ends it for what comes from then on."""
        self.ask("delay", seconds=seconds)

    def black_hole(self) -> None:
        """Let nothing through, in either direction; connections stay."""
        self.ask("black_hole", is_on=True)

    def heal(self) -> None:
        """End black hole and delay; what was kept back arrives."""
        self.ask("black_hole", is_on=False)
        self.delay(0.0)

    def clear(self) -> None:
        """Heal; forget all rules, and cut the connections where something is held or lost."""
        self.heal()
        self.ask("clear")

    def reset_all(self) -> int:
        """Cut every connection, with what is on its way; give how many there were."""
        return int(self.ask("reset_all")["connections"])

    def connections(self) -> int:
        """Count the connections that are open."""
        return int(self.ask("counts")["connections"])

    def ask(self, do: str, **details: object) -> dict[str, Any]:
        """Send a request to the proxy's process; give its answer."""
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps({"do": do} | details) + "\n")
            self._process.stdin.flush()
            return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the proxy's process has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _rule(
        self,
        kind: Literal["hold", "doom"],
        api_key: int | None,
        *,
        client: str | None = None,
        containing: str | None = None,
        skip: int = 0,
        count: int = 1,
        then: str = "",
    ) -> int:
        details = {
            "kind": kind,
            "api_key": api_key,
            "client": client,
            "containing": containing,
            "skip": skip,
            "count": count,
            "then": then,
        }
        answer = self.ask("rule", details=details)
        return int(answer["rule"])


class Caught:
    """What a rule catches.

    Parameters
    ----------
    proxy, rule
        Whose rule it is.
    """

    def __init__(self, proxy: _Proxy, rule: int) -> None:
        self._proxy = proxy
        self._rule = rule

    @property
    def count(self) -> int:
        """How many were caught so far."""
        return int(self._proxy.ask("look", rule=self._rule)["caught"])

    def wait(self, timeout_s: float, count: int = 1) -> bool:
        """Wait until so many were caught; say whether they were."""
        deadline_s = time.monotonic() + timeout_s
        while self.count < count:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_INTERVAL_S)
        return True

    def reset_client(self) -> None:
        """Cut the clients' ends of the connections where something was caught."""
        self._proxy.ask("reset_client", rule=self._rule)


class Held(Caught):
    """Requests that lie in the proxy."""

    def release(self) -> None:
        """Send what is held on to the broker, whether or not its client waits; hold no more."""
        self._proxy.ask("release", rule=self._rule)

    def drop(self) -> None:
        """Forget what is held and cut both ends of its connections; hold no more."""
        self._proxy.ask("drop", rule=self._rule)


class KafkaProxy(_Proxy):
    """A proxy that knows requests by their API key.

    Rules apply in the order of their making; each request is caught by one at most. All of our
    clients have one client id, but a producer's requests begin with its transactional id, so
    ``containing`` tells workers apart.
    """

    _KIND = "kafka"

    def hold(
        self,
        api_key: int,
        *,
        client: str | None = None,
        containing: str | None = None,
        skip: int = 0,
        count: int = 1,
    ) -> Held:
        """Keep requests back until they are released.

        Parameters
        ----------
        api_key
            Which requests.
        client
            Only of clients with this client id.
        containing
            Only with these characters in the first 1,024 bytes, e.g. a transactional id.
        skip, count
            How many pass first, and how many are held then.
        """
        rule = self._rule(
            "hold", api_key, client=client, containing=containing, skip=skip, count=count
        )
        return Held(self, rule)

    def drop_response(
        self,
        api_key: int,
        *,
        containing: str | None = None,
        skip: int = 0,
        count: int = 1,
        then: Literal["stall", "reset"] = "stall",
    ) -> Caught:
        """Let requests reach the broker, and lose its answers.

        Parameters
        ----------
        api_key, containing, skip, count
            As for `hold`.
        then
            ``stall``: nothing more comes back on that connection; ``reset``: it is cut.
        """
        rule = self._rule("doom", api_key, containing=containing, skip=skip, count=count, then=then)
        return Caught(self, rule)

    def requests(self) -> dict[int, int]:
        """Count the requests so far, by API key."""
        return {int(key): count for key, count in self.ask("counts")["requests"].items()}


class TcpProxy(_Proxy):
    """A proxy that knows nothing of what it copies."""

    _KIND = "tcp"

    def cut_after_apply(self, count: int = 1, *, containing: str | None = None) -> Caught:
        """Let requests reach the server, and cut the client off when the answer begins to come.

        Parameters
        ----------
        count
            How many pieces of what clients send.
        containing
            Only those with these characters in them, e.g. ``FCALL``.
        """
        rule = self._rule("doom", None, containing=containing, count=count, then="reset")
        return Caught(self, rule)
