"""Replicas on a real, local Ray: where streams go, how many replicas there are, how they end."""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import signal
import time
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

pytest.importorskip("starlette")

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import streamserver
from mien.errors import MienError, UsageError
from servers import free_port

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("default"),  # Ray leaves sockets and processes to the collector
]

WAIT = 90.0
DRAIN = 5.0
FRAME = bytes(50_000)


@pytest.fixture(scope="module")
def cluster():
    """Two replicas, three at most, for two streams each."""
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed")
    from mien.scale import serving

    scaling = serving.Scaling(2, 3, 2.0, DRAIN, 1.0, 1.0, 0.2, 0.0)
    made = serving.application(streamserver.make, {}, scaling, path="/v1/live")
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))  # where replicas find streamserver
        for who in ("REPLICA", "HANDLE"):
            patch.setenv(f"RAY_SERVE_{who}_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "0.5")
        patch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # machines may be busy
        yield from running(serving, made, port)


def running(serving, made, port):
    with (
        serving.connected("local", 2) as ray,
        serving.running(ray, made, "127.0.0.1", port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT) as client,
    ):
        yield Cluster(client, ray)


class Cluster:
    """What the tests ask of it."""

    def __init__(self, client, ray):
        self.client, self.ray = client, ray

    def create(self):
        answer = self.client.post("/v1/live")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def show(self, stream):
        return self.client.get(f"/v1/live/{stream['id']}").status_code

    def replicas(self, state="RUNNING"):
        """How many, as Ray Serve counts them."""
        from ray import serve

        (one,) = serve.status().applications["mien"].deployments.values()
        return one.replica_states.get(state, 0)

    @contextmanager
    def open(self, stream):
        address = str(self.client.base_url).replace("http", "ws", 1).rstrip("/")
        with connect(
            f"{address}/v1/live/{stream['id']}/socket", open_timeout=WAIT, close_timeout=2
        ) as socket:
            yield socket


def echoed(socket):
    socket.send(FRAME)
    return socket.recv(WAIT) == FRAME


def end_of(socket):
    """Code with which it ends; None for a cut."""
    with suppress(ConnectionClosed):
        while True:
            socket.recv(WAIT)
    return None if socket.protocol.close_rcvd is None else socket.protocol.close_rcvd.code


def wait(there):
    until = time.monotonic() + WAIT
    while not there():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_streams_spread_and_each_stays_where_it_is(cluster):
    wait(lambda: len({cluster.client.get("/who").json()["pid"] for _ in range(8)}) == 2)
    made = [cluster.create() for _ in range(4)]  # before one of them is open
    assert sorted(Counter(stream["pid"] for stream in made).values()) == [2, 2]
    with ExitStack() as held:
        sockets = [held.enter_context(cluster.open(stream)) for stream in made]
        for _ in range(10):
            assert all(echoed(socket) for socket in sockets)
            for stream in made:
                shown = cluster.client.get(f"/v1/live/{stream['id']}")
                assert (shown.status_code, shown.json()["pid"]) == (200, stream["pid"])
    assert cluster.show({"id": "0" * 32}) == 404  # nobody's: whoever answers does not know it


def test_replicas_come_with_streams_and_who_goes_is_drained(cluster):
    with ExitStack() as held:
        first = [cluster.create() for _ in range(5)]
        opened = [(stream, held.enter_context(cluster.open(stream))) for stream in first]
        wait(lambda: cluster.replicas() == 3)
        busy = {stream["pid"] for stream in first}
        wait(lambda: cluster.client.get("/who").json()["pid"] not in busy)
        newest = cluster.create()
        assert newest["pid"] not in busy
        opened.append((newest, held.enter_context(cluster.open(newest))))
        # One stream stays on each, which is work for two replicas: so one has to go.
        last = {stream["pid"]: (stream, socket) for stream, socket in opened}
        assert len(last) == 3
        for stream, socket in opened:
            if last[stream["pid"]][0] is not stream:
                socket.close()
        wait(lambda: cluster.replicas("STOPPING") == 1)
        wait(lambda: len({cluster.create()["pid"] for _ in range(6)}) == 2)
        stay = {cluster.create()["pid"] for _ in range(6)}
        ((stream, leaving),) = [last.pop(pid) for pid in last.keys() - stay]
        assert echoed(leaving)  # goes on
        assert cluster.show(stream) == 200  # and is found
        with cluster.open(stream) as again:
            assert echoed(again)
        assert end_of(leaving) == 1001
        assert all(echoed(socket) for _, socket in last.values())
        wait(lambda: cluster.show(stream) == 404)
        wait(lambda: cluster.replicas("STOPPING") == 0)


def test_a_killed_replica_costs_its_own_streams_alone(cluster):
    one, two = cluster.create(), cluster.create()
    assert one["pid"] != two["pid"]
    with cluster.open(one) as lost, cluster.open(two) as kept:
        assert echoed(lost)
        assert echoed(kept)
        os.kill(one["pid"], signal.SIGKILL)
        assert end_of(lost) != 1000
        assert all(echoed(kept) for _ in range(5))
        wait(lambda: cluster.show(one) == 404)
        assert cluster.show(two) == 200
        assert cluster.create()["pid"] != one["pid"]
        wait(lambda: cluster.replicas() == 2)


def test_only_one_at_a_time(cluster):
    from mien.scale import serving

    scaling = serving.Scaling(1, 1, 2.0, DRAIN, 1.0, 1.0, 0.2, 0.0)
    made = serving.application(streamserver.make, {}, scaling, path="/v1/live")
    with (
        pytest.raises(UsageError, match="already"),
        serving.running(cluster.ray, made, "127.0.0.1", 1),
    ):
        pass
    with pytest.raises(UsageError, match="Ray Client"), serving.connected("ray://127.0.0.1:1"):
        pass


def test_one_that_is_out_for_a_moment_is_not_drained(monkeypatch):
    from mien.scale import serving

    replica_id, drained = SimpleNamespace(unique_id="one"), []
    context = SimpleNamespace(replica_id=replica_id, deployment="server", app_name="mien")
    handle = SimpleNamespace(options=lambda stream: None)
    monkeypatch.setattr(serving, "SURE", 0.1)
    monkeypatch.setattr(serving.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(serving.serve, "get_deployment_handle", lambda *_: handle)

    async def seen():
        served = SimpleNamespace(ready=lambda: asyncio.sleep(0), drain=drained.append)
        replica = serving.Replica(lambda *_: served, {}, DRAIN)
        await replica.check_health()
        for there in ((), ("two",), ("one", "two"), ("two",), ("one",)):
            replica.see(set(there))
        await asyncio.sleep(0.3)
        assert drained == []
        await replica.check_health()
        replica.see({"two"})
        await asyncio.sleep(0.3)
        assert drained == [DRAIN]
        await replica.check_health()  # which goes on until it has ended
        replica.see({"one"})
        await asyncio.sleep(0)
        with pytest.raises(MienError, match="is to stay"):  # so that it is replaced
            await replica.check_health()

    asyncio.run(seen())


def test_nothing_but_a_request_is_unpacked():
    from mien.scale import serving

    with pytest.raises(pickle.UnpicklingError, match="system is no request"):
        serving._Packed(io.BytesIO(pickle.dumps(os.system))).load()
