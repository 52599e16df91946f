"""The service: its endpoints, and what every answer and every log line has to keep to.

No answer holds a traceback, and no log line a history or a query, unless asked for.
"""

import asyncio
import base64
import collections
import contextlib
import dataclasses
import hashlib
import hmac
import html
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import numpy as np
import prometheus_client
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from recllm_tasks.data.item_lookup import Found
from recllm_tasks.models.item_mask import ItemMask
from recllm_tasks.recommender import Recommendation, Recommender
from recllm_tasks.serve import bodies, openapi
from recllm_tasks.serve.batches import Batches, Full, Request, Stopping
from recllm_tasks.serve.bodies import BadRequest, Body
from recllm_tasks.serve.item_lists import ItemLists
from recllm_tasks.serve.item_search import ItemSearch

# A client that takes longer to send its body is turned away.
BODY_SECONDS = 10
_MOST_FOUND = 50

_SHORT_BYTES = 4096

# Masks of lists that were asked for; of ten million items, each takes 2.5 MB.
_MASKS = 64

# Paths that anybody may read: nothing of the shop is in them.
_PUBLIC = ("/", "/docs", "/openapi.json", "/healthz", "/readyz")
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of a service.

    Attributes:
      batch_size: the most histories decoded together.
      most_waiting: histories in the queue; more are refused with 429.
      timeout: seconds that a request may take.
      token: that clients must send; None needs a name of this machine in the header Host, so that
        no web page of somebody else can read answers.
      log_bodies: log lines hold what clients ask for.
    """

    batch_size: int = 32
    most_waiting: int = 1024
    timeout: float = 30.0
    token: str | None = None
    log_bodies: bool = False


class Metrics:
    """What /metrics shows."""

    def __init__(self, service: "Service"):
        self.registry = registry = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=registry)
        self.requests = prometheus_client.Counter(
            "recllm_requests", "Answers by path and status", ["path", "status"], registry=registry
        )
        self.seconds = prometheus_client.Histogram(
            "recllm_request_seconds", "Time to answer", ["path"], registry=registry
        )
        self.batch_size = prometheus_client.Histogram(
            "recllm_batch_histories",
            "Histories decoded together",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            registry=registry,
        )
        self.decode_seconds = prometheus_client.Histogram(
            "recllm_batch_seconds", "Time to decode a batch", registry=registry
        )
        self._gauge("recllm_ready", "All shapes are compiled", lambda: service.batches.is_ready)
        self._gauge("recllm_waiting", "Histories in the queue", lambda: service.batches.num_waiting)
        self._gauge(
            "recllm_list_failures", "Lists that could not be read", lambda: service.lists.failures
        )
        items = prometheus_client.Gauge(
            "recllm_list_items", "Items of a list", ["list"], registry=registry
        )
        for name in service.lists.lists:
            items.labels(name).set_function(lambda name=name: service.list_sizes()[name])

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        prometheus_client.Gauge(name, text, registry=self.registry).set_function(value)


class Service:
    """The endpoints over a Recommender, and all that they share."""

    def __init__(
        self,
        recommender: Recommender,
        lists: ItemLists,
        settings: Settings,
        say: Callable[[str], Any] = print,
    ):
        self.recommender, self.lists, self.settings, self._say = recommender, lists, settings, say
        self.metrics: Metrics
        self.batches = Batches(
            recommender,
            settings.batch_size,
            settings.most_waiting,
            self._observe,
            say,
        )
        self.metrics = Metrics(self)
        self.is_stopping = False
        self._search = ItemSearch(recommender.catalog)
        self._masks: collections.OrderedDict[Any, ItemMask] = collections.OrderedDict()
        self._masks_lock = threading.Lock()
        # Names are looked up, and answers are written, beside the event loop and the decoder.
        self._workers = ThreadPoolExecutor(2, "requests")
        self._page, self._page_policy = _page(recommender)
        self._schema = openapi.schema(recommender.most_items)
        self._docs = openapi.docs_page(self._schema)
        self._docs_policy = policy(self._docs)

    def start(self) -> None:
        self.batches.start()
        self.lists.watch()

    def begin_to_stop(self) -> None:
        """From now on, requests are refused; those that wait are answered."""
        self.is_stopping = True
        self.batches.stop()

    def close(self) -> None:
        self.begin_to_stop()
        self.lists.stop()
        self.batches.join()
        self._workers.shutdown()

    def app(self) -> Any:
        """The ASGI application."""
        routes = [
            Route("/", self.page),
            Route("/docs", self.docs),
            Route("/openapi.json", self.schema),
            Route("/healthz", self.healthz),
            Route("/readyz", self.readyz),
            Route("/metrics", self.show_metrics),
            Route("/v1/items", self.items),
            Route("/v1/lists", self.show_lists),
            Route("/v1/recommend", self.recommend, methods=["POST"]),
        ]
        handlers = {HTTPException: _refused, BadRequest: _wrong, _Gone: _gone}
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.router.redirect_slashes = False
        return _Guard(app, self, {route.path for route in routes})

    def list_sizes(self) -> dict[str, int]:
        return {name: int(one.listed_N.sum()) for name, one in self.lists.lists.items()}

    def say(self, line: str) -> None:
        self._say(line)

    async def page(self, request: HttpRequest) -> Response:
        return HTMLResponse(self._page, headers={"Content-Security-Policy": self._page_policy})

    async def docs(self, request: HttpRequest) -> Response:
        return HTMLResponse(self._docs, headers={"Content-Security-Policy": self._docs_policy})

    async def schema(self, request: HttpRequest) -> Response:
        return _json(self._schema)

    async def healthz(self, request: HttpRequest) -> Response:
        if self.batches.is_alive:
            return _json({"status": "ok"})
        return _error(503, "the decoder has stopped; restart the service")

    async def readyz(self, request: HttpRequest) -> Response:
        if self.is_stopping:
            return _error(503, "the service is stopping", retry_after=5)
        if not self.batches.is_ready:
            return _error(503, "the service is compiling", retry_after=5)
        return _json({"status": "ready"})

    async def show_metrics(self, request: HttpRequest) -> Response:
        content = prometheus_client.generate_latest(self.metrics.registry)
        return Response(content, media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def items(self, request: HttpRequest) -> Response:
        query, limit = (
            request.query_params.get("query", ""),
            request.query_params.get("limit", "20"),
        )
        if len(query) > bodies.MAX_NAME:
            return _error(422, f"query: expected at most {bodies.MAX_NAME} characters")
        if not re.fullmatch(r"[0-9]{1,3}", limit) or not 1 <= int(limit) <= _MOST_FOUND:
            return _error(422, f"limit: expected a whole number from 1 to {_MOST_FOUND}")
        rows = await self._beside(self._search.rows, query, int(limit))
        return _json({"items": [self.recommender.catalog.names(row) for row in rows]})

    async def show_lists(self, request: HttpRequest) -> Response:
        return _json({"lists": self.list_sizes()})

    async def recommend(self, request: HttpRequest) -> Response:
        if self.is_stopping:
            return _error(503, "the service is stopping", retry_after=5)
        if not self.batches.is_ready:
            return _error(503, "the service is compiling", retry_after=5)
        deadline = time.monotonic() + self.settings.timeout
        content = await _read(request)
        if self.settings.log_bodies:
            self._say(f"body {content.decode(errors='replace')!a}")
        # A thread costs more than a short body's work.
        beside = self._beside if len(content) > _SHORT_BYTES else _at_once
        body, found, work = await beside(self._prepare, content, deadline)
        if work.histories:
            try:
                self.batches.put(work)
            except Full as error:
                return _error(429, "the queue is full", retry_after=error.seconds)
            except Stopping:
                return _error(503, "the service is stopping", retry_after=5)
            try:
                await _answers(request, work)
            except TimeoutError:
                return _error(503, f"no answer within {self.settings.timeout:g} s", retry_after=5)
        content = await beside(self._written, body, found, work)
        return Response(content, media_type="application/json")

    async def _beside(self, function: Callable, *arguments: Any) -> Any:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._workers, function, *arguments)

    def _prepare(self, content: bytes, deadline: float) -> tuple[Body, "_Resolved", Request]:
        body = bodies.parse(content, self.recommender.most_items)
        lookup = self.recommender.lookup
        histories = [
            lookup.find([_bare(name) for name in names], f"history {number}")
            for number, names in enumerate(body.histories, 1)
        ]
        allow = lookup.find([_bare(name) for name in body.allow or ()], "allow")
        deny = lookup.find([_bare(name) for name in body.deny], "deny")
        excludes = body.exclude_history
        if excludes is None:
            excludes = self.recommender.excludes_history
        known = [history.rows for history in histories if history.rows]
        work = Request(known, body.k, excludes, self._mask(body, allow, deny), deadline)
        return body, _Resolved(histories, allow, deny), work

    def _mask(self, body: Body, allow: Found, deny: Found) -> ItemMask:
        """The mask of a request's lists."""
        lists = self.lists.lists
        for name in (*body.allow_lists, *body.deny_lists):
            if name not in lists:
                named = ", ".join(lists) or "none, as the service has no --list"
                raise BadRequest(
                    f"allow_lists and deny_lists: got an unknown name, expected {named}"
                )
        key = (
            frozenset((name, lists[name].version) for name in body.allow_lists),
            frozenset((name, lists[name].version) for name in body.deny_lists),
            None if body.allow is None else _digest(allow.rows),
            _digest(deny.rows),
        )
        with self._masks_lock:
            if key in self._masks:
                self._masks.move_to_end(key)
                return self._masks[key]
        made = self.recommender.mask(self._allowed(body, allow, deny))
        with self._masks_lock:
            self._masks[key] = made
            while len(self._masks) > _MASKS:
                self._masks.popitem(last=False)
        return made

    def _allowed(self, body: Body, allow: Found, deny: Found) -> np.ndarray:
        """Which items a request's lists allow: bool by catalog row."""
        lists = self.lists.lists
        allowed_N = np.ones(len(self.recommender.catalog), bool)
        if body.allow is not None:
            allowed_N[:] = False
            allowed_N[allow.rows] = True
        allowed_N[deny.rows] = False
        for name in body.allow_lists:
            allowed_N &= lists[name].listed_N
        for name in body.deny_lists:
            allowed_N &= ~lists[name].listed_N
        return allowed_N

    def _written(self, body: Body, found: "_Resolved", work: Request) -> bytes:
        """The answer, as JSON."""
        names, answers = self.recommender.catalog.names, iter(work.answers)
        popular: list[Recommendation] = []
        if len(work.histories) < len(found.histories):
            allowed_N = self._allowed(body, found.allow, found.deny)
            popular = self.recommender.popular(body.k, allowed_N)
        results = []
        for history in found.histories:
            ranked = next(answers) if history.rows else popular
            items = [item._asdict() for item in ranked]
            if body.explain and history.rows:
                self._explain(history.rows, items)
            results.append(
                {
                    "items": items,
                    "history": [names(row) for row in history.rows],
                    **_left_out(history),
                }
            )
        lists = {"allow": _left_out(found.allow), "deny": _left_out(found.deny)}
        return _encoded({"results": results, **lists})

    def _explain(self, history: Sequence[int], items: list[dict[str, Any]]) -> None:
        """Adds to each item why it may follow the history."""
        catalog = self.recommender.catalog
        rows = [self._search.row_of_short_id[item["short_id"]] for item in items]
        order = np.argsort([-item["log_prob"] for item in items], kind="stable")
        for rank, place in enumerate(order.tolist(), 1):
            items[place]["model_rank"] = rank
        for item, reason in zip(items, self.recommender.reasons.of(history, rows)):
            item["prior_rank"] = reason.rank
            item["nearest"] = [
                {**catalog.names(history[place]), "share": round(share, 4)}
                for place, share in reason.nearest
            ]

    def _observe(self, histories: int, seconds: float) -> None:
        self.metrics.batch_size.observe(histories)
        self.metrics.decode_seconds.observe(seconds)


@dataclasses.dataclass(frozen=True)
class _Resolved:
    """The items that a request's names stand for."""

    histories: list[Found]
    allow: Found
    deny: Found


class _Guard:
    """Around the application: tokens, hosts, headers, counts and the log."""

    def __init__(self, app: Any, service: Service, paths: set[str]):
        self._app, self._service, self._paths = app, service, paths

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 0

        async def send_guarded(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS]
                if self._service.is_stopping:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            refusal = self._refusal(scope)
            app = refusal or self._app
            await app(scope, receive, send_guarded)
        except Exception as error:
            # A bug of ours, which Starlette has answered with 500. Its type and place are all that
            # can be logged without what was asked.
            self._service.say(f"{type(error).__name__} at {_place(error)}")
        finally:
            seconds = time.monotonic() - start
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._service.metrics.requests.labels(path, str(status)).inc()
            self._service.metrics.seconds.labels(path).observe(seconds)
            if path not in ("/healthz", "/readyz", "/metrics"):
                self._service.say(f"{scope['method'][:10]} {path} {status} {seconds * 1e3:.0f} ms")

    def _refusal(self, scope: Any) -> Response | None:
        token, headers = self._service.settings.token, dict(scope["headers"])
        if token is None:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            if re.sub(r":\d+$", "", host) in _LOOPBACK_NAMES:
                return None
            return _error(
                403,
                "Host: expected localhost, because the service has no token; start it with "
                "--token_file",
            )
        if scope["path"] in _PUBLIC:
            return None
        sent = headers.get(b"authorization", b"")
        if hmac.compare_digest(sent, b"Bearer " + token.encode()):
            return None
        refusal = _error(401, "Authorization: expected 'Bearer ' and the service's token")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal


_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class _Gone(Exception):
    """The client left."""


async def _read(request: HttpRequest) -> bytes:
    """The body.

    Raises:
      BadRequest: it is too long, or takes too long.
    """
    too_long = BadRequest(
        f"Body: expected at most {bodies.MAX_BODY_BYTES >> 20} MB; send more requests", 413
    )
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > bodies.MAX_BODY_BYTES:
        raise too_long
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise _Gone
                content += message.get("body", b"")
                if len(content) > bodies.MAX_BODY_BYTES:
                    raise too_long
                if not message.get("more_body"):
                    return bytes(content)
    except TimeoutError:
        raise BadRequest(f"Body: expected all of it within {BODY_SECONDS} s", 408) from None


async def _answers(request: HttpRequest, work: Request) -> None:
    """Waits until the request is answered.

    Raises:
      TimeoutError: its time is up.
      _Gone: the client left; the request is dropped.
    """

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answered = asyncio.wrap_future(work.done)
    leaving = asyncio.ensure_future(left())
    try:
        done, _ = await asyncio.wait(
            (answered, leaving),
            timeout=work.deadline - time.monotonic(),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if answered in done:
            answered.result()
        else:
            raise _Gone if done else TimeoutError
    finally:
        leaving.cancel()
        answered.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await leaving


async def _at_once(function: Callable, *arguments: Any) -> Any:
    return function(*arguments)


def _bare(name: str) -> str:
    """A name without quotes, which ask for a part of a title: that looks at every title."""
    while name[:1] in ("'", '"') and len(name) > 1 and name[0] == name[-1]:
        name = name[1:-1].strip()
    return name


def _left_out(found: Found) -> dict[str, list[str]]:
    return {
        "unknown": found.unknown,
        "ambiguous": found.ambiguous,
        "repeated": found.repeated,
    }


def _digest(rows: Sequence[int]) -> bytes:
    if not rows:
        return b""
    listed = np.unique(np.asarray(rows, np.int32))
    return hashlib.blake2b(listed.tobytes(), digest_size=16).digest()


def _page(recommender: Recommender) -> tuple[str, str]:
    """The page, and its content security policy."""
    text = resources.files("recllm_tasks.serve").joinpath("page.html").read_text(encoding="utf-8")
    facts = {"most_items": recommender.most_items, "exclude": recommender.excludes_history}
    text = text.replace("{facts}", html.escape(json.dumps(facts)))
    return text, policy(text)


def policy(page: str) -> str:
    """The content security policy of a page: its own script and styles run, and nothing else."""

    def hashes(tag: str) -> str:
        inline = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.S)
        digests = [hashlib.sha256(text.encode()).digest() for text in inline]
        listed = [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]
        return " ".join(listed) or "'none'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _encoded(content: Any) -> bytes:
    # ASCII: what a client sends may hold half of a character, which UTF-8 cannot write.
    return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def _json(content: Any, status: int = 200) -> Response:
    return Response(_encoded(content), status, media_type="application/json")


def _error(status: int, message: str, retry_after: int | None = None) -> Response:
    response = _json({"error": message}, status)
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


async def _refused(request: HttpRequest, error: Any) -> Response:
    """Of paths and methods that there are not."""
    response = _error(error.status_code, error.detail)
    response.headers.update(error.headers or {})
    return response


async def _wrong(request: HttpRequest, error: Any) -> Response:
    response = _error(error.status, str(error))
    if error.status in (408, 413):
        response.headers["Connection"] = "close"  # the rest of the body is not read
    return response


async def _gone(request: HttpRequest, error: Exception) -> Response:
    return Response(status_code=499)  # as nginx counts it; nobody reads it


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"
