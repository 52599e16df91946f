"""The process: sockets, slow clients, signals."""

import gc
import ipaddress
import logging
import resource
import signal
import socket
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recllm_tasks.errors import UserError
from recllm_tasks.serve.app import Service

# A client that takes longer to send the head of a request is cut off.
HEAD_SECONDS = 10
_MOST_HEAD_BYTES = 1 << 16
_MOST_CONNECTIONS = 4096


def open_socket(host: str, port: int, has_token: bool) -> socket.socket:
    """A bound socket.

    Raises:
      UserError: the address is not to be had, or others could reach it without a token.
    """
    try:
        (family, _, protocol, _, address), *_ = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"Address '{host}': got {error}, expected a name or address of this machine; correct "
            "--host"
        ) from error
    if not has_token and not ipaddress.ip_address(str(address[0])).is_loopback:
        raise UserError(
            f"Address '{host}': got one that other machines reach, without a token, expected a "
            "loopback address such as 127.0.0.1; give --token_file, or leave out --host"
        )
    # With the protocol named, asyncio turns Nagle's algorithm off: answers come 40 ms sooner.
    opened = socket.socket(family, socket.SOCK_STREAM, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise UserError(
            f"Port {port} of '{host}': got {error.strerror}, expected a free one of this machine; "
            "give another --port or --host"
        ) from error
    return opened


def run(service: Service, listening: socket.socket) -> None:
    """Serves until SIGTERM or Ctrl-C; what is in flight then is finished."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * _MOST_CONNECTIONS)), hard))
    # Its lines about hostile bytes; requests are logged by the application.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        service.app(),
        http=_Protocol,
        ws="none",
        loop="uvloop",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(service.settings.timeout) + 5,
    )
    service.batches.before_ready = _keep_objects
    service.start()
    try:
        _Server(config, service).run(sockets=[listening])
    finally:
        service.close()


def _keep_objects() -> None:
    """What exists by now stays: Python's collector would stop everybody for 0.4 s to look at it."""
    gc.collect()
    gc.freeze()


class _Server(uvicorn.Server):
    """One that tells the service at once when it is to stop."""

    def __init__(self, config: uvicorn.Config, service: Service):
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._service.is_stopping = True
        super().handle_exit(sig, frame)
        if sig == signal.SIGTERM:
            self._captured_signals.clear()  # an orderly end, not a death by signal


class _Protocol(HttpToolsProtocol):
    """One that cuts off clients who take forever to send the head of a request, or a huge one.

    The same for the rest of a body that nobody reads.
    """

    _deadline = None
    _in_head = False
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._head_bytes = self._head_bytes + len(data) if self._in_head else 0
        if self._head_bytes > _MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._watch()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._in_head = False
        self._stop_watching()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._stop_watching()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body and not self.transport.is_closing():
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._stop_watching()
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
