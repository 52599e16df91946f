"""The service: its answers, its lists, its limits, its end."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

# What the extra `serve` installs.
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from recllm_tasks import cli
from recllm_tasks.errors import UserError
from recllm_tasks.serve import server
from recllm_tasks.serve.app import Settings
from recllm_tasks.serve.batches import Batches, Full, Request, Stopping, _whole


def _names(result):
    return [item["short_id"] for item in result["items"]]


def test_answers_are_those_of_the_recommender(service, serving):
    ids = serving.catalog.short_id
    histories = [ids[:3], ids[5:9], [ids[0]]]
    status, found = service.recommend(*histories, k=4)
    expected = serving.recommend(histories, k=4)
    assert status == 200
    for result, history, ranked in zip(found["results"], histories, expected, strict=True):
        assert [item["short_id"] for item in result["history"]] == history
        assert [item["title"] for item in result["items"]] == [item.title for item in ranked]
        for item, other in zip(result["items"], ranked):
            assert item["log_prob"] == pytest.approx(other.log_prob, abs=1e-4)
            assert item["probability"] == pytest.approx(math.exp(other.log_prob), rel=1e-3)
            assert item["source"] == "model"


def test_only_what_is_allowed_is_answered(service, serving):
    ids, raw = serving.catalog.short_id, serving.catalog.item
    history = ids[:3]
    _, free = service.recommend(history, k=5)
    assert not set(_names(free["results"][0])) & set(history)
    _, kept = service.recommend(history, k=5, exclude_history=False, allow=history)
    assert sorted(_names(kept["results"][0])) == sorted(history)
    first = _names(free["results"][0])[0]
    _, denied = service.recommend(history, k=5, deny=[first])
    assert first not in _names(denied["results"][0])
    _, few = service.recommend(history, k=5, allow=[ids[8], raw[9], "no such item"])
    assert sorted(_names(few["results"][0])) == sorted([ids[8], ids[9]])
    assert few["allow"]["unknown"] == ["no such item"]
    _, none = service.recommend(history, k=5, allow=[])
    assert none["results"][0]["items"] == []


def test_every_item_is_ranked_as_by_a_list_of_it_and_another(service, serving):
    """The exact best: two items allowed are in the order of their scores, with the prior."""
    ids = serving.catalog.short_id
    histories, pairs = [ids[:3]], [(ids[i], ids[i + 1]) for i in range(4, 34, 3)]
    scores = {}
    examples = [{**serving._prompts([[0, 1, 2]])[0], "exclude": np.arange(3), "target": -1}]
    rows = [np.arange(len(ids), dtype=np.int32)]
    (both,) = serving._decoder.log_probs(serving._params, examples, rows)
    scores = dict(zip(ids, both[0] + 0.5 * both[1]))
    for pair in pairs:
        _, found = service.recommend(*histories, k=5, allow=list(pair))
        expected = sorted(pair, key=lambda name: -scores[name])
        assert _names(found["results"][0]) == expected


def test_unknown_names_are_reported_and_empty_histories_get_what_is_popular(service, serving):
    ids = serving.catalog.short_id
    status, found = service.recommend(["nothing", ids[4], ids[4]], [], k=3, deny=[ids[0]])
    assert status == 200
    known, empty = found["results"]
    assert known["unknown"] == ["nothing"]
    assert known["repeated"] == [ids[4]]
    assert [item["short_id"] for item in known["history"]] == [ids[4]]
    assert {item["source"] for item in empty["items"]} == {"popular"}
    order = np.argsort(-serving.catalog.train_count, kind="stable")
    assert _names(empty) == [ids[row] for row in order if row != 0][:3]


def test_a_list_is_read_again_when_its_file_changes(service, serving):
    ids, raw = serving.catalog.short_id, serving.catalog.item
    seventh = ids[raw.index("A007")]
    _, found = service.recommend([ids[10]], k=5, allow_lists=["in_stock"])
    assert set(_names(found["results"][0])) == {ids[0], ids[1], ids[2], seventh}
    _, other = service.recommend([ids[10]], k=5, deny_lists=["in_stock"])
    assert not set(_names(other["results"][0])) & {ids[0], ids[1], ids[2], seventh}
    service.stock.with_suffix(".new").write_text(f"{ids[5]}\r\n{ids[6]}\n")
    os.replace(service.stock.with_suffix(".new"), service.stock)
    for _ in range(100):
        if json.loads(service.get("/v1/lists")[1])["lists"] == {"in_stock": 2}:
            break
        time.sleep(0.1)
    _, found = service.recommend([ids[10]], k=5, allow_lists=["in_stock"])
    assert set(_names(found["results"][0])) == {ids[5], ids[6]}
    service.stock.write_bytes(b"\xff\xfe")  # what cannot be read leaves the list as it was
    for _ in range(100):
        if service.service.lists.failures:
            break
        time.sleep(0.1)
    _, found = service.recommend([ids[10]], k=5, allow_lists=["in_stock"])
    assert set(_names(found["results"][0])) == {ids[5], ids[6]}
    assert 'recllm_list_items{list="in_stock"} 2.0' in service.get("/metrics")[1]
    status, refused = service.recommend([ids[10]], allow_lists=["unknown"])
    assert status == 422
    assert "in_stock" in refused["error"]


def test_many_clients_each_get_their_own_answer_and_nothing_is_compiled(service, serving):
    ids, compiled = serving.catalog.short_id, []

    def heard(name, seconds, **_):
        if "backend_compile" in name:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(heard)
    alone = {name: service.recommend([name], k=5)[1]["results"][0] for name in ids[:12]}
    with ThreadPoolExecutor(24) as clients:
        names = [*alone] * 6
        answers = clients.map(lambda name: service.recommend([name], k=5), names)
        for name, (status, found) in zip(names, answers):
            assert status == 200
            (result,) = found["results"]
            assert _names(result) == _names(alone[name])
            assert result["history"] == alone[name]["history"]
    jax.monitoring.unregister_event_duration_listener(heard)
    assert not compiled
    counts = re.findall(r"recllm_batch_histories_(sum|count) (\S+)", service.get("/metrics")[1])
    total, batches = (float(dict(counts)[name]) for name in ("sum", "count"))
    assert total > 1.5 * batches  # requests were decoded together


def test_why_an_item(service, serving):
    ids = serving.catalog.short_id
    rows = [0, 1, 2]
    _, found = service.recommend([ids[row] for row in rows], k=5, explain=True)
    items = found["results"][0]["items"]
    assert sorted(item["model_rank"] for item in items) == [1, 2, 3, 4, 5]
    by_model = sorted(items, key=lambda item: -item["log_prob"])
    assert [item["model_rank"] for item in by_model] == [1, 2, 3, 4, 5]
    from recllm_tasks.data.item_to_item import joint_scores

    similarities = serving.reasons._similarities
    (scores,) = joint_scores([np.array(rows)], similarities).toarray()
    others = np.delete(scores, rows)
    for item in items:
        own = scores[ids.index(item["short_id"])]
        assert item["prior_rank"] == (1 + (others > own).sum() if own else None)
        assert {near["short_id"] for near in item["nearest"]} <= {ids[row] for row in rows}
        if own:
            assert sum(near["share"] for near in item["nearest"]) == pytest.approx(1, abs=1e-3)


def test_items_are_found_by_id_and_by_a_part_of_their_title(service, serving):
    def find(query, **more):
        status, _, content = service.ask("GET", f"/v1/items?query={query}{more.get('also', '')}")
        assert status == 200
        return [item["item"] for item in json.loads(content)["items"]]

    assert find("A007") == ["A007"]
    assert serving.catalog.item[0] in find("i1")
    assert find("OF%20%20store%2012,") == ["A012"]
    assert len(find("gift", also="&limit=7")) == 7
    counts = dict(zip(serving.catalog.item, serving.catalog.train_count))
    popular = [counts[item] for item in find("")]
    assert popular == sorted(popular, reverse=True)
    assert find("%00%1b%5B31m%3C/script%3E") == []
    for wrong in ("0", "51", "-1", "x", "1e1", "%D9%A1"):
        assert service.get(f"/v1/items?limit={wrong}")[0] == 422


def test_the_description_is_what_the_service_does(service, serving):
    description = json.loads(service.get("/openapi.json")[1])
    for path, methods in description["paths"].items():
        for method in methods:
            status = service.ask(method.upper(), path, b"{}" if method == "post" else None)[0]
            assert str(status) in methods[method]["responses"], path
    answers = description["paths"]["/v1/recommend"]["post"]["responses"]["200"]
    schema = answers["content"]["application/json"]["schema"]
    _, found = service.recommend([serving.catalog.short_id[0]], [], explain=True)
    _check(found, schema)
    status, docs = service.get("/docs")
    assert status == 200
    assert "exclude_history" in docs
    assert "http" not in re.sub(r"HTTP|http://127|https?:</", "", docs)  # nothing from elsewhere


_TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "number": float,
    "integer": int,
    "null": type(None),
    "boolean": bool,
}


def _check(value, schema):
    """A part of JSON Schema, enough for ours; unknown fields are errors."""
    if "enum" in schema:
        assert value in schema["enum"]
        return
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    assert any(isinstance(value, _TYPES[kind]) for kind in kinds), (value, schema)
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value)
        for name, inner in value.items():
            _check(inner, schema["properties"][name])
    if isinstance(value, list):
        for inner in value:
            _check(inner, schema["items"])


class _Slow:
    """A recommender that waits to be let go."""

    def __init__(self, fails=()):
        self.go, self.batches, self.fails = threading.Event(), [], fails
        self.reasons = None

    def compile(self):
        return iter(())

    def recommend_rows(self, histories, k, *, allowed, exclude_history):
        self.batches.append([rows[0] for rows in histories])
        assert self.go.wait(30)
        if set(self.fails) & {rows[0] for rows in histories}:
            raise RuntimeError("planted")
        return [[rows[0]] * k for rows in histories]


def _request(*rows, k=1, seconds=30.0):
    return Request([[row] for row in rows], k, True, None, time.monotonic() + seconds)


def _ready(batches, slow, first=0):
    """With one request in the decoder."""
    batches.start()
    one = _request(first)
    while not slow.batches:
        if batches.is_ready and not one.answers:
            batches.put(one)
        time.sleep(0.01)
    return one


def test_histories_are_batched_in_the_order_of_arrival():
    slow = _Slow()
    batches = Batches(slow, 4, 100)
    one = _ready(batches, slow)
    requests = [_request(1, 2, 3, k=2), _request(4, 5), _request(6)]
    for request in requests:
        batches.put(request)
    slow.go.set()
    assert one.done.result(10) == [[0]]
    assert [request.done.result(10) for request in requests] == [
        [[1, 1], [2, 2], [3, 3]],
        [[4], [5]],
        [[6]],
    ]
    assert slow.batches == [[0], [1, 2, 3, 4], [5, 6]]
    batches.stop()
    batches.join()
    with pytest.raises(Stopping):
        batches.put(_request(1))


def test_what_nobody_waits_for_is_not_decoded_and_a_full_queue_refuses():
    slow = _Slow()
    batches = Batches(slow, 4, 3)
    _ready(batches, slow)
    left, late, wanted = _request(1), _request(2, seconds=-1), _request(3)
    for request in (left, late, wanted):
        batches.put(request)
    with pytest.raises(Full) as full:
        batches.put(_request(4))
    assert full.value.seconds >= 1
    left.done.cancel()
    slow.go.set()
    assert wanted.done.result(10) == [[3]]
    batches.stop()
    batches.join()
    assert slow.batches == [[0], [3]]


def test_a_history_that_fails_costs_the_others_nothing():
    slow = _Slow(fails=[2])
    batches = Batches(slow, 4, 100, say=lambda line: None)
    _ready(batches, slow)
    good, bad, other = _request(1), _request(5, 2, 6), _request(3)
    for request in (good, bad, other):
        batches.put(request)
    slow.go.set()
    assert good.done.result(10) == [[1]]
    assert other.done.result(10) == [[3]]
    with pytest.raises(RuntimeError):
        bad.done.result(10)
    batches.stop()
    batches.join()


def test_what_waits_at_the_end_is_answered():
    slow = _Slow()
    batches = Batches(slow, 2, 100)
    _ready(batches, slow)
    waiting = [_request(n) for n in range(1, 6)]
    for request in waiting:
        batches.put(request)
    batches.stop()
    slow.go.set()
    batches.join()
    assert [request.done.result(0) for request in waiting] == [[[n]] for n in range(1, 6)]


def test_padding_is_at_most_a_quarter():
    assert [_whole(n, 32) for n in (1, 2, 3, 4, 5, 6, 11, 12, 20, 24, 31, 32, 90)] == [
        1, 2, 3, 4, 4, 6, 8, 12, 16, 24, 31, 32, 32,
    ]  # fmt: skip


def test_a_service_that_others_reach_needs_a_token(tmp_path, capsys):
    for host in ("0.0.0.0", "::"):
        with pytest.raises(UserError, match="without a token"):
            server.open_socket(host, 0, has_token=False)
    server.open_socket("127.0.0.2", 0, has_token=False).close()
    with server.open_socket("127.0.0.1", 0, has_token=False) as taken:
        taken.listen()
        with pytest.raises(UserError, match="give another --port"):
            server.open_socket("127.0.0.1", taken.getsockname()[1], has_token=False)
    (tmp_path / "short").write_text("abc\n")
    for arguments, message in (
        (["--token_file", str(tmp_path / "short")], "at least 16"),
        (["--token_file", str(tmp_path / "none")], "correct --token_file"),
        (["--host", "no.such.host.invalid"], "correct --host"),
        (["--queue", "0"], "--queue: got 0"),
        (["--list", "x"], "NAME=FILE"),
    ):
        assert cli.main(["serve", str(tmp_path), "--port", "0", *arguments]) == 2
        assert message in capsys.readouterr().err


PROGRAM = "import sys; from recllm_tasks.cli import main; sys.exit(main(sys.argv[1:]))"


def test_sigterm_finishes_what_is_in_flight(run_dir, small_data_dir, make_client):
    """A real process: ready, busy, told to stop; every client gets a whole answer."""
    arguments = ["serve", run_dir, "--data_dir", str(small_data_dir), "--port", "0"]
    arguments += ["-k", "5", "--batch_size", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.PIPE, text=True
    )
    try:
        port = next(
            int(found[1]) for line in process.stderr if (found := re.search(r":(\d+)/$", line))
        )
        client = make_client(port)
        assert client.recommend(["I1"])[0] == 503  # it compiles
        for _ in range(1200):
            if client.get("/readyz")[0] == 200:
                break
            time.sleep(0.1)
        with ThreadPoolExecutor(8) as clients:
            waiting = [clients.submit(client.recommend, *[["I1"]] * 8) for _ in range(8)]
            while "recllm_batch_histories_count 0.0" in client.get("/metrics")[1]:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            for request in waiting:
                status, found = request.result()
                assert status == 200 or found["error"] == "the service is stopping"
                assert status != 200 or len(found["results"]) == 8
            assert any(request.result()[0] == 200 for request in waiting)
        lines = process.stderr.read()
        assert process.wait(60) == 0
        assert "I1" not in lines
        assert "Traceback" not in lines
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_answers_do_not_wait_for_acknowledgements():
    """With TCP's Nagle algorithm, the second part of an answer waits 40 ms for the client."""
    with server.open_socket("127.0.0.1", 0, has_token=False) as listening:
        assert listening.proto == socket.IPPROTO_TCP  # for which asyncio sets TCP_NODELAY


def test_tokens(serving, running):
    token = "a-token-of-this-test"
    with running(serving, Settings(batch_size=8, token=token)) as client:
        body = json.dumps({"histories": [["I1"]]})
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": token}):
            status, found, content = client.ask("POST", "/v1/recommend", body, headers)
            assert (status, found["WWW-Authenticate"]) == (401, "Bearer")
            assert b"token" in content
        assert client.get("/metrics")[0] == 401
        assert client.get("/readyz")[0] == 200
        own = {"Authorization": f"Bearer {token}", "Host": "shop.example"}
        assert client.ask("POST", "/v1/recommend", body, own)[0] == 200
