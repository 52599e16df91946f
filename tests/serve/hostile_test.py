"""Clients that mean harm, or are broken: no traceback, no 500, nobody else's answer."""

import contextlib
import json
import re
import resource
import socket
import struct
import threading
import time

import pytest

# What the extra `serve` installs.
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from recllm_tasks.serve import app as app_lib
from recllm_tasks.serve import bodies, server


@pytest.fixture(autouse=True)
def _all_is_well_afterwards(service, serving):
    """After whatever a test did, an honest client gets its answer, and the log is clean."""
    ids = serving.catalog.short_id
    service.lines.clear()
    yield
    status, found = service.recommend([ids[3]], k=5)
    assert status == 200
    assert [item["short_id"] for item in found["results"][0]["history"]] == [ids[3]]
    log = "\n".join(service.lines)
    assert not re.search(r" 500 \d+ ms", log)
    assert "Error" not in log


def _post(service, body, **headers):
    status, _, content = service.ask("POST", "/v1/recommend", body, headers)
    assert status < 500
    text = content.decode()
    assert "Traceback" not in text
    assert len(text) < 1000
    return status, json.loads(text)["error"]


def _history(*names):
    return json.dumps({"histories": [list(names)]}).encode()


DEEP = b"[" * 10_000 + b"]" * 10_000
WRONG = {
    "nothing": (b"", "JSON"),
    "no JSON": (b"histories=I1", "at character 0"),
    "no UTF-8": (b'{"histories": [["\xff"]]}', "UTF-8"),
    "a list": (b"[]", "a list of 0"),
    "null": (b"null", "expected an object"),
    "NaN": (b'{"histories": [["I1"]], "k": NaN}', "not JSON"),
    "infinity": (b'{"histories": [["I1"]], "k": -Infinity}', "not JSON"),
    "1e999": (b'{"histories": [["I1"]], "k": 1e999}', "k: got Infinity"),
    "deep": (DEEP, "nested too deeply"),
    "deep inside": (b'{"histories": ' + DEEP + b"}", "nested too deeply"),
    "deep objects": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
    "long number": (b'{"histories": [["I1"]], "k": ' + b"9" * 5000 + b"}", "not JSON"),
    "no histories": (b"{}", "histories: got none"),
    "histories null": (b'{"histories": null}', "a list of lists"),
    "histories empty": (b'{"histories": []}', "got 0"),
    "histories text": (b'{"histories": "I1"}', "a list of lists"),
    "history text": (b'{"histories": ["I1"]}', "history 1"),
    "history object": (b'{"histories": [{}]}', "an object of 0"),
    "item number": (b'{"histories": [[17]]}', "history 1, place 1: got 17"),
    "item null": (b'{"histories": [["I1", null]]}', "place 2: got null"),
    "item list": (b'{"histories": [[["I1"]]]}', "a list of 1"),
    "item long": (_history("x" * 1001), "at most 1000 characters"),
    "k zero": (b'{"histories": [["I1"]], "k": 0}', "from 1 to 5"),
    "k many": (b'{"histories": [["I1"]], "k": 6}', "from 1 to 5"),
    "k true": (b'{"histories": [["I1"]], "k": true}', "k: got true"),
    "k half": (b'{"histories": [["I1"]], "k": 1.5}', "k: got 1.5"),
    "k text": (b'{"histories": [["I1"]], "k": "5"}', 'k: got "5"'),
    "exclude number": (b'{"histories": [["I1"]], "exclude_history": 1}', "true, false or null"),
    "exclude object": (b'{"histories": [["I1"]], "exclude_history": {}}', "true, false or null"),
    "explain": (b'{"histories": [["I1"]], "explain": "yes"}', "true or false"),
    "allow text": (b'{"histories": [["I1"]], "allow": "I1"}', "allow: got"),
    "deny number": (b'{"histories": [["I1"]], "deny": [1]}', "deny, place 1"),
    "list unknown": (b'{"histories": [["I1"]], "deny_lists": ["../../etc/passwd"]}', "in_stock"),
    "field unknown": (b'{"histories": [["I1"]], "user": "me"}', 'the field "user"'),
    "field markup": (b'{"histories": [["I1"]], "</script>\\u0000": 1}', r"</script>\u0000"),
    "10,000 histories": (json.dumps({"histories": [["I1"]] * 10_000}).encode(), "got 10,000"),
    "100,000 items": (json.dumps({"histories": [["I1"] * 100_000]}).encode(), "got 100,000"),
    "many items": (json.dumps({"histories": [["I1"] * 900] * 100}).encode(), "got 90,000 items"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_bodies_are_refused_with_the_reason(service, name):
    body, message = WRONG[name]
    status, error = _post(service, body)
    assert status == 422
    assert message in error


def test_strange_names_are_names_that_fit_nothing(service, serving):
    ids = serving.catalog.short_id
    strange = ["</script><script>alert(1)</script>", "\x00\x1b[31m\r\n", "\u202e", "\ud800", ""]
    strange += ["'; DROP TABLE items", "../../etc/passwd", '"' * 999, "'\"" * 300, "𐀀" * 999]
    status, found = service.recommend([ids[0], *strange], k=5)
    assert status == 200
    assert len(found["results"][0]["unknown"]) == len(strange)
    assert len(found["results"][0]["items"]) == 5
    assert "script" not in "".join(service.lines)


def test_a_body_of_100_mb_is_refused_without_reading_it(service):
    assert _post(service, b"", **{"Content-Length": str(100 << 20)})[0] == 413
    with socket.create_connection(("127.0.0.1", service.port), 30) as client:
        client.sendall(
            b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        sent, chunk = 0, b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
        with contextlib.suppress(ConnectionError):  # it stops reading
            for _ in range(100):
                client.sendall(chunk)
                sent += 1
        with contextlib.suppress(ConnectionError):
            assert b" 413 " in client.recv(1000)
    assert sent < 100


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(service, method):
    assert service.ask(method, "/v1/recommend")[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/../etc/passwd",
        "/..%2f..%2fetc/passwd",
        "/v1/../docs",
        "//",
        "/v1/items/",
        "/%00",
        "/a" * 9,
    ],
)
def test_there_is_nothing_at_other_paths(service, path):
    status, _, content = service.ask("GET", path)
    assert status == 404
    assert b"root:" not in content


def _raw(service, content, wait=True):
    """What a client who writes these bytes gets."""
    with socket.create_connection(("127.0.0.1", service.port), 30) as client:
        client.sendall(content)
        found = b""
        with contextlib.suppress(ConnectionError):
            while wait and (part := client.recv(1 << 16)):
                found += part
        return found


def test_what_is_not_http_is_refused(service):
    for content in (
        b"\x16\x03\x01\x02\x00" + bytes(500),  # TLS
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA:" + b"x" * 1_000_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\r\n\r\n\x00\r\n\r\n",
    ):
        found = _raw(service, content)
        assert not found or found.startswith(b"HTTP/1.1 400 ")


def test_a_page_of_somebody_else_cannot_ask(service):
    """A name that points to the loopback address (DNS rebinding)."""
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", ""):
        assert service.ask("GET", "/v1/items", headers={"Host": host})[0] == 403
    for host in ("localhost", "127.0.0.1:8000", "[::1]:80", "LOCALHOST:1"):
        assert service.ask("GET", "/v1/items", headers={"Host": host})[0] == 200
    assert "Access-Control-Allow-Origin" not in service.ask("GET", "/v1/items")[1]


HEAD = b"POST /v1/recommend HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


def test_slow_clients_are_cut_off(service, monkeypatch):
    monkeypatch.setattr(app_lib, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    start = time.monotonic()
    assert b" 408 " in _raw(service, HEAD % 1000 + b'{"hist')
    assert _raw(service, b"POST /v1/recommend HTTP/1.1\r\nHo") == b""
    assert _raw(service, b"") == b""
    endless = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), 30) as client:
        client.sendall(endless)
        with contextlib.suppress(ConnectionError):
            for sent in range(1000):  # noqa: B007
                client.sendall(b"1\r\nx\r\n")
                time.sleep(0.02)
        assert sent < 999
    # After an answer, on the same connection.
    found = _raw(service, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal")
    assert found.count(b" 200 ") == 1
    assert time.monotonic() - start < 20


def test_clients_that_leave_cost_nobody_anything(service, serving):
    body = _history(*serving.catalog.short_id[:3])
    clients = []
    for reset in (True, False) * 10:
        client = socket.create_connection(("127.0.0.1", service.port), 30)
        client.sendall(HEAD % len(body) + body)
        if reset:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        else:
            client.shutdown(socket.SHUT_WR)  # half closed
            clients.append(client)
    for client in clients:
        with client, contextlib.suppress(ConnectionError):
            found = client.recv(1 << 16)
            assert not found or found.startswith(b"HTTP/1.1 200 ")
    for half in (HEAD % 100, HEAD % len(body) + body[:5], b"POST"):
        _raw(service, half, wait=False)
    assert service.service.batches.num_waiting <= 20


def test_requests_on_one_connection_are_answered_in_order(service, serving):
    ids = serving.catalog.short_id
    content = b""
    for name in ids[:6]:
        body = _history(name)
        content += HEAD % len(body) + body
    content += b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    found = _raw(service, content).decode()
    histories = re.findall(r'"history":\[\{"short_id":"(\w+)"', found)
    assert histories == ids[:6]


def test_a_thousand_connections_at_once(service, serving):
    """All open before the first speaks; every one gets its own answer."""
    ids = serving.catalog.short_id
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3000:
        pytest.skip(f"needs 3,000 open files, of which the system allows {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", service.port), 120))
            for _ in range(1000)
        ]
        for number, client in enumerate(clients):
            body = _history(ids[number % len(ids)])
            client.sendall(HEAD % len(body) + body)
        counts = {}
        for number, client in enumerate(clients):
            found = b""
            while b"}" not in found[-1:]:
                part = client.recv(1 << 16)
                if not part:
                    break
                found += part
            status = int(found.split()[1])
            counts[status] = counts.get(status, 0) + 1
            if status == 200:
                own = json.loads(found.split(b"\r\n\r\n")[1])["results"][0]["history"]
                assert own[0]["short_id"] == ids[number % len(ids)]
            else:
                assert status == 429
                assert b"retry-after" in found.lower()
    assert counts[200] > 900


def test_good_and_bad_requests_at_once(service, serving):
    """Each good client gets what it gets alone, while others do their worst."""
    ids = serving.catalog.short_id
    alone = {name: service.recommend([name], k=5)[1] for name in ids[:4]}
    stop = threading.Event()

    def harm():
        bad = [body for body, _ in WRONG.values() if len(body) < 30_000]
        while not stop.is_set():
            for body in bad:
                service.ask("POST", "/v1/recommend", body)

    others = [threading.Thread(target=harm) for _ in range(3)]
    for thread in others:
        thread.start()
    try:
        for name in list(alone) * 5:
            status, found = service.recommend([name], k=5)
            assert status == 200
            items, expected = (
                [item["short_id"] for item in one["results"][0]["items"]]
                for one in (found, alone[name])
            )
            assert items == expected
    finally:
        stop.set()
        for thread in others:
            thread.join()


def test_the_largest_request_is_answered(service, serving):
    names = [*serving.catalog.short_id, *("unknown" for _ in range(bodies.MAX_HISTORY - 36))]
    histories = [names[-20 - n :] for n in range(20)] + [names]
    status, found = service.recommend(*histories, k=5)
    assert status == 200
    assert len(found["results"]) == 21


def test_the_log_holds_no_histories_unless_asked_for(service, serving):
    service.recommend([serving.catalog.short_id[5]], deny=["a secret"])
    service.get("/v1/items?query=a%20secret")
    assert service.lines
    assert not re.search(r"secret|I\d", "".join(service.lines))
