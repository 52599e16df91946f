"""A service over the small run, on a free port of the loopback address."""

import contextlib
import http.client
import json
import threading
import time

import pytest

from recllm_tasks.engine import saved_run
from recllm_tasks.engine.decoding import Shapes
from recllm_tasks.recommender import Recommender
from recllm_tasks.runs.decoding import Decoding


class Client:
    """Requests to a service; one connection each."""

    def __init__(self, port: int):
        self.port = port

    def ask(self, method: str, path: str, body=None, headers=None):
        """(status, headers, body as bytes)"""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def get(self, path: str, **headers):
        status, _, content = self.ask("GET", path, headers=headers)
        return status, content.decode()

    def recommend(self, *histories, **settings):
        """(status, the answer)"""
        body = json.dumps({"histories": list(histories), **settings})
        status, _, content = self.ask("POST", "/v1/recommend", body)
        return status, json.loads(content)


class Running(Client):
    """A service and its client."""

    def __init__(self, service, lines: list[str], port: int):
        super().__init__(port)
        self.service, self.lines = service, lines


@pytest.fixture(scope="session")
def make_client():
    return Client


@pytest.fixture(scope="session")
def running():
    """`run_service`."""
    return run_service


@contextlib.contextmanager
def run_service(recommender, settings=None, files=()):
    """Serves in a thread until the block ends."""
    import uvicorn

    from recllm_tasks.serve import server
    from recllm_tasks.serve.app import Service, Settings
    from recllm_tasks.serve.item_lists import ItemLists

    settings = settings or Settings(batch_size=8)
    lines = []
    lists = ItemLists(dict(files), recommender.catalog, lines.append)
    service = Service(recommender, lists, settings, lines.append)
    listening = server.open_socket("127.0.0.1", 0, settings.token is not None)
    port = listening.getsockname()[1]
    config = uvicorn.Config(
        service.app(), http=server._Protocol, ws="none", lifespan="off", log_config=None
    )
    server_of_thread = uvicorn.Server(config)
    service.start()
    thread = threading.Thread(target=server_of_thread.run, kwargs={"sockets": [listening]})
    thread.start()
    client = Running(service, lines, port)
    try:
        for _ in range(1200):
            if server_of_thread.started and client.get("/readyz")[0] == 200:
                break
            time.sleep(0.1)
        yield client
    finally:
        server_of_thread.should_exit = True
        thread.join()
        service.close()


@pytest.fixture(scope="session")
def serving(run_dir, small_data_dir):
    """A recommender in a single shape."""
    decoding = Decoding(num_beams=5, prior_weight=0.5)
    shapes = Shapes((512,), (8,))
    return Recommender(
        saved_run.load(run_dir), decoding, data_dir=str(small_data_dir), shapes=shapes
    )


@pytest.fixture(scope="module")
def service(serving, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    (folder / "stock").write_text("I1\nI2\nI3\nA007\n\nnothing\n")
    with run_service(serving, files={"in_stock": str(folder / "stock")}) as client:
        client.stock = folder / "stock"
        yield client
