"""What this machine's accelerator does: training, encoding, beam search, one step of the trie.

    tools/bench_accelerator.py                       # eight minutes, all shapes
    tools/bench_accelerator.py --minutes 3 --shapes base --out results

Runs on all devices that JAX sees, with random weights, and needs neither a network nor TensorFlow.
It measures in the order of importance, writes OUT/accelerator.json and OUT/accelerator.md after
each measurement, and ends when time is up or on SIGTERM, whatever it is doing: what has been
measured is kept. A kill leaves the files whole.

- Training: packed rows of 1,024 + 256 tokens, bfloat16 activations, Adafactor, dropout; the largest
  batch that fits, with and without remat.
- Beam search over a catalog's trie, encoder included, beams 20 and 256; and the encoder alone.
- Attention of eight rows of the first shape with T5's bias and its gradients: ours and JAX's.
- One step of the trie: the children of 32 x 20 beams and the choice of the best, without a model.
- Input: what copying batches to the devices allows, and, with --data_dir, what the pipeline makes.

Rows are read from --rows. The file (about 1 MB) is written first if it does not exist: from a
prepared dataset (--data_dir, --dataset), else of random tokens with lengths as there.

FLOPs are those that XLA counts in the program before it is optimised, of all devices; what remat
computes again counts too. The peak is the data sheet's, in bfloat16; of a processor it is the
product of two large matrices. `plan` is the estimate of `recllm doctor`, `compiler` is what this
device's compiler says. JAX counts the peak of memory from the start of the process, so it is the
peak of the largest program so far.
"""

import argparse
import contextlib
import functools
import math
import os
import select
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from side_by_side import SHAPES, processor

from recllm_tasks.engine import capacity, devices, optimizer
from recllm_tasks.engine.train_step import State, train_step
from recllm_tasks.files import atomic_write, write_json
from recllm_tasks.models import beam_search as search
from recllm_tasks.models import layers
from recllm_tasks.models.network import T5Config, Transformer
from recllm_tasks.models.stacks import mask_bias
from recllm_tasks.models.trie import Trie

VOCABULARY = 32_128
STEPS_OF_TRIE = 1000


def main() -> None:
    args = _parse()
    report = Report(args)
    end_in_time(report, 60 * args.minutes)
    for name, settings, measure in measurements(args):
        report.add(name, settings, measure)
    report.end()


def end_in_time(report: "Report", seconds: float) -> None:
    """Ends the process after so many seconds, and on SIGTERM and Ctrl-C, also inside a compiler.

    Python runs a signal's function only when the compiler has returned; the number of the signal is
    in the pipe at once.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def wait() -> None:
        asked, _, _ = select.select([reading], [], [], seconds)
        report.end(signal.Signals(os.read(reading, 1)[0]).name if asked else "time was up")

    threading.Thread(target=wait, daemon=True).start()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=8)
    shapes = ["base", "xl", "small", "large"]
    parser.add_argument(
        "--shapes", nargs="+", choices=SHAPES, default=shapes, help="the most important first"
    )
    parser.add_argument("--out", type=Path, default=Path("."), help="folder of the results")
    parser.add_argument("--rows", type=Path, help="packed rows; default: OUT/rows.npz")
    parser.add_argument("--data_dir", help="of a prepared dataset, which rows are made of")
    parser.add_argument("--dataset", default="movielens_100k")
    parser.add_argument("--seconds", type=float, default=3, help="of each measurement, about")
    parser.add_argument("--inputs", type=int, default=1024, help="tokens per row")
    parser.add_argument("--targets", type=int, default=256)
    parser.add_argument("--max_rows", type=int, default=64, help="per device, in training")
    parser.add_argument("--beams", type=int, nargs="+", default=[20, 256])
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 1, 8, 128])
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 10_000_000])
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="tokens")
    return parser.parse_args()


def measurements(args) -> Iterator[tuple[str, str, Callable[[], dict]]]:
    """Names, what is asked for, and functions, the most important first.

    All of one shape comes before the next one, so that a model that takes minutes to compile costs
    the others nothing.
    """

    def searched(shape: str, beams: int, batch: int, items: int):
        settings = f"{beams} beams, batch {batch}, {items:,} items"
        search = functools.partial(beam_search, args, shape, beams, batch, items)
        return f"beam search {shape}", settings, search

    def stepped(items: int):
        settings = f"{args.batch[0]} x {args.beams[0]} beams, {items:,} items"
        return "trie step", settings, functools.partial(trie_step, args, items)

    batch, items = args.batch[0], args.items[0]
    yield "matrix product", "", lambda: matrix_product(args)
    yield stepped(items)
    for shape in args.shapes:
        yield f"train {shape}", "", functools.partial(train, args, shape, remat=False)
        for beams in args.beams:
            yield searched(shape, beams, batch, items)
    for shape in args.shapes:
        yield f"train {shape}, remat", "", functools.partial(train, args, shape, remat=True)
    for shape in args.shapes:
        yield f"encoder {shape}", f"batch {batch}", functools.partial(encoder, args, shape, batch)
    # cuDNN's is that of GPUs.
    ways = ("ours", "xla", "cudnn") if jax.default_backend() == "gpu" else ("ours", "xla")
    for way in ways:
        of = functools.partial(attention, args, args.shapes[0], way)
        yield f"attention {args.shapes[0]}", f"{way}, with gradients", of
    yield "input", "", lambda: copy_input(args)
    if args.data_dir:
        yield "input pipeline", "", lambda: pipeline(args)
    for other in args.batch[1:]:
        for shape in args.shapes:
            yield searched(shape, args.beams[0], other, items)
    for more in args.items[1:]:
        yield stepped(more)
        for shape in args.shapes:
            for beams in args.beams:
                yield searched(shape, beams, batch, more)


class Report:
    """What has been measured, on disk after every measurement."""

    def __init__(self, args):
        self._args, self._start, self._rows = args, time.monotonic(), []
        self._doing, self._why, self._lock = "", "", threading.RLock()
        self._folder = args.out
        self._folder.mkdir(parents=True, exist_ok=True)
        first = jax.devices()[0]
        self._chip = capacity.chip_of(first.device_kind)
        self._machine = {
            "device": first.device_kind,
            "number": len(jax.devices()),
            "platform": first.platform,
            "host": processor(),
            "cores": os.cpu_count(),
            "jax": jax.__version__,
            "tokens": [args.inputs, args.targets],
        }

    def add(self, name: str, settings: str, measure: Callable[[], dict]) -> None:
        doing = f"{name}, {settings}" if settings else name
        with self._lock:
            self._doing = doing
        print(f"{time.monotonic() - self._start:5.0f} s  {doing}", file=sys.stderr, flush=True)
        try:
            found = measure()
        except Exception as error:  # What one program cannot do must not end the others.
            reason = next(iter(str(error).splitlines()), "").replace("|", "/")[:200]
            found = {"failed": f"{type(error).__name__}: {reason}"}
        stats = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            found["peak_memory"] = stats["peak_bytes_in_use"]
        with self._lock:
            self._rows.append({"name": name, "settings": settings, **found})
            self.write()

    def end(self, why: str = "") -> None:
        """Keeps what there is and ends the process, whatever it is doing."""
        with self._lock:
            self.write(why)
            print(self.markdown(), flush=True)
            os._exit(0)

    def write(self, why: str = "") -> None:
        """Replaces both files; `why` the measurement under way is not finished."""
        self._why = why
        done = {**self._machine, "peak": self._peak(), "measured": self._rows}
        if why:
            done |= {"unfinished": self._doing, "why": why}
        write_json(self._folder / "accelerator.json", done)
        with atomic_write(self._folder / "accelerator.md") as f:
            f.write(self.markdown())

    def _peak(self) -> float:
        """FLOP/s of all devices."""
        if self._chip:
            return self._chip.peak * 1e12 * self._machine["number"]
        return next((row["rate"] for row in self._rows if row["name"] == "matrix product"), 0.0)

    def markdown(self) -> str:
        machine, peak = self._machine, self._peak()
        source = "data sheet" if self._chip else "measured product of matrices"
        lines = [
            f"{machine['number']} x {machine['device']}, JAX {machine['jax']}; {machine['cores']} "
            f"cores of {machine['host']}; peak {peak / 1e12:,.3g} TFLOP/s ({source}).",
            "",
            "| what | settings | a second | ms | TFLOP | of peak | plan GB | compiler GB | "
            "peak GB | compiled in s |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_line(row, peak) for row in self._rows]
        if self._why:
            lines += ["", f"Not finished: {self._doing} ({self._why})."]
        return "\n".join(lines) + "\n"


def _line(row: dict, peak: float) -> str:
    def gigabytes(key: str) -> str:
        return f"{row[key] / 1e9:.2f}" if key in row else "–"

    if "failed" in row:
        return f"| {row['name']} | {row['settings']} | failed: {row['failed']} |" + " – |" * 7
    seconds, flops = row.get("seconds"), row.get("flops")
    cells = (
        row["name"],
        row["settings"] or "–",
        f"{row['number'] / seconds:,.0f} {row['unit']}" if "number" in row else "–",
        f"{1e3 * seconds:,.3f}" if seconds and seconds > 1e-4 else _small(seconds),
        f"{flops / 1e12:.3g}" if flops else "–",
        f"{flops / seconds / peak * row.get('parts', 1):.0%}" if flops and peak else "–",
        gigabytes("plan_memory"),
        gigabytes("compiler_memory"),
        gigabytes("peak_memory"),
        f"{row['compile_seconds']:.1f}" if "compile_seconds" in row else "–",
    )
    return f"| {' | '.join(cells)} |"


def _small(seconds: float | None) -> str:
    return f"{1e3 * seconds:.2g}" if seconds else "–"


def timed(run: Callable[[], Any], seconds: float) -> float:
    """Median seconds of a call that returns arrays, after one that is not counted."""
    jax.block_until_ready(run())
    found, end = [], time.perf_counter() + seconds
    while len(found) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def compiled(lowered) -> tuple[Any, dict]:
    start = time.perf_counter()
    program = lowered.compile()
    memory = program.memory_analysis()
    needed = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    return program, {
        "compile_seconds": time.perf_counter() - start,
        "compiler_memory": needed,
    }


def matrix_product(args) -> dict:
    """A large bfloat16 product on every device (float32 on processors)."""
    on_cpu = jax.default_backend() == "cpu"
    size, dtype = (1024, jnp.float32) if on_cpu else (8192, jnp.bfloat16)
    # Virtual devices share a processor's cores: one product uses all of them.
    number = 1 if on_cpu else len(jax.devices())
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:number]).reshape(-1, 1), ("data", "model"))
    ones = jax.jit(
        lambda: jnp.ones((number, size, size), dtype), out_shardings=devices.split_batch(mesh)
    )()
    program, found = compiled(jax.jit(jax.vmap(jnp.dot)).lower(ones, ones))
    seconds = timed(lambda: program(ones, ones), min(1, args.seconds))
    flops = 2 * size**3 * number
    settings = f"{size} x {size}, {np.dtype(dtype).name}"
    return {**found, "settings": settings, "seconds": seconds, "flops": flops} | {
        "rate": flops / seconds
    }


def network_of(args, shape: str, *, remat: bool = False) -> Transformer:
    return Transformer(
        T5Config(
            vocab_size=args.vocabulary,
            dtype="bfloat16",
            remat=remat,
            loop_attention=False,
            **SHAPES[shape],
        )
    )


def mesh_of(args, config: T5Config) -> jax.sharding.Mesh:
    """As few devices as training needs share a copy of the parameters."""
    number, memory, parallel = len(jax.devices()), device_memory(), 1
    lengths = (args.inputs, args.targets)
    while number % (2 * parallel) == 0 and not capacity.largest_batch(
        config, memory, *lengths, remat=True, model_parallel=parallel
    ):
        parallel *= 2
    return devices.make_mesh(parallel)


def device_memory() -> float:
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return whole / 4 / len(jax.devices())


def random_params(network: Transformer, mesh: jax.sharding.Mesh) -> Any:
    token = jnp.ones((1, 1), jnp.int32)

    def draw(key):
        return network.init(key, token, token, token, enable_dropout=False)

    key = jax.random.key(0)
    shardings = devices.parameter_shardings(mesh, jax.eval_shape(draw, key))
    return jax.jit(lambda key: draw(key)["params"], out_shardings=shardings)(key)


def train(args, shape: str, *, remat: bool) -> dict:
    network = network_of(args, shape, remat=remat)
    mesh = mesh_of(args, network.config)
    parts, parallel = mesh.shape["data"], mesh.shape["model"]
    lengths = (args.inputs, args.targets)
    fitting = functools.partial(capacity.training_bytes, network.config, remat=remat)
    on_device = capacity.largest_batch(
        network.config, device_memory(), *lengths, remat=remat, model_parallel=parallel
    )
    on_device = min(on_device or 1, args.max_rows)
    rule = optimizer.adafactor(optimizer.constant_with_warmup())
    while True:
        try:
            found = _train(args, network, mesh, rule, on_device)
            break
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or on_device == 1:
                raise
            on_device //= 2
    plan = fitting(on_device, *lengths, model_parallel=parallel)
    settings = f"{on_device * parts} rows, mesh {parts}x{parallel}"
    return {**found, "settings": settings, "plan_memory": plan, "unit": "tokens"}


def _train(args, network, mesh, rule, on_device: int) -> dict:
    parts = mesh.shape["data"]
    batch = devices.put(rows_of(args, on_device * parts), devices.split_batch(mesh))
    params = random_params(network, mesh)
    shardings = devices.moment_shardings(rule, params, mesh)
    moments = jax.jit(rule.init, out_shardings=shardings)(params)
    state = State(jax.device_put(jnp.int32(0), devices.replicated(mesh)), params, moments)
    key = jax.random.key(0)
    whole = train_step.lower(network, rule, state, batch, key, parts=parts, chunk=1 << 30)
    flops = whole.cost_analysis()["flops"]
    program, found = compiled(train_step.lower(network, rule, state, batch, key, parts=parts))
    kept = [state]
    del state, params, moments

    def step():
        kept[0], measures = program(kept[0], batch, key)
        return measures

    seconds = timed(step, args.seconds)
    tokens = on_device * parts * (args.inputs + args.targets)
    return {**found, "seconds": seconds, "flops": flops, "number": tokens}


@functools.cache
def _catalog(num_items: int) -> Trie:
    """Ids of four tokens, the first of which is that of all."""
    wide = math.ceil(num_items ** (1 / 3))
    number = np.arange(num_items)
    places = [np.full_like(number, 2), *(3 + number // wide**place % wide for place in range(3))]
    tokens = np.stack(places, axis=1).astype(np.int32)
    return Trie.from_tokens(tokens.reshape(-1), np.arange(num_items + 1) * 4, 1)


def _prompts(args, batch: int) -> np.ndarray:
    """Every prompt as long as a row."""
    rng = np.random.Generator(np.random.Philox(key=1))
    return rng.integers(3, args.vocabulary, (batch, args.inputs), dtype=np.int32)


def _serving(args, shape: str, batch: int):
    """(network, parameters, prompts, mesh); the batch is rounded up to the devices."""
    network = network_of(args, shape)
    mesh = mesh_of(args, network.config)
    params = random_params(network, mesh)
    parts = mesh.shape["data"]
    prompts = _prompts(args, -(-batch // parts) * parts)
    return network, params, jax.device_put(prompts, devices.split_batch(mesh)), mesh


def beam_search(args, shape: str, beams: int, batch: int, num_items: int) -> dict:
    network, params, prompts, mesh = _serving(args, shape, batch)
    trie = jax.device_put(_catalog(num_items), devices.replicated(mesh))

    def run(params, prompts, trie):
        return search.beam_search(network, params, prompts, trie, num_beams=beams)

    lowered = jax.jit(run).lower(params, prompts, trie)
    program, found = compiled(lowered)
    seconds = timed(lambda: program(params, prompts, trie), args.seconds)
    return {
        **found,
        "settings": f"{beams} beams, batch {len(prompts)}, {num_items:,} items",
        "seconds": seconds,
        "flops": lowered.cost_analysis()["flops"],
        "number": len(prompts),
        "unit": "users",
    }


def encoder(args, shape: str, batch: int) -> dict:
    network, params, prompts, _ = _serving(args, shape, batch)

    def run(params, prompts):
        return network.apply(
            {"params": params}, prompts, enable_dropout=False, method=network.encode
        )

    lowered = jax.jit(run).lower(params, prompts)
    program, found = compiled(lowered)
    seconds = timed(lambda: program(params, prompts), args.seconds)
    return {
        **found,
        "settings": f"batch {len(prompts)}",
        "seconds": seconds,
        "flops": lowered.cost_analysis()["flops"],
        "number": prompts.size,
        "unit": "tokens",
    }


def attention(args, shape: str, way: str) -> dict:
    """Self-attention of eight packed rows with T5's bias, and its gradients, on one device."""
    heads, depth, length = SHAPES[shape]["num_heads"], SHAPES[shape]["head_dim"], args.inputs
    rows = min(8, args.max_rows)
    segments = jnp.asarray(rows_of(args, rows)["encoder_segment_ids"])
    qkv = jax.random.normal(jax.random.key(0), (3, rows, heads, length, depth), jnp.bfloat16) / 8
    position = jax.random.normal(jax.random.key(1), (1, heads, length, length))

    def attend(qkv, position, segments):
        mask = mask_bias(segments[:, :, None] == segments[:, None, :])
        if way == "ours":
            return layers._mix(*qkv, (position, mask)).astype(jnp.bfloat16)
        query, key, value = qkv.transpose(0, 1, 3, 2, 4)
        bias = (position + mask).astype(jnp.bfloat16 if way == "cudnn" else jnp.float32)
        return jax.nn.dot_product_attention(
            query, key, value, bias=bias, scale=1.0, implementation=way
        )

    def objective(qkv, position, segments):
        return jnp.sum(jnp.square(attend(qkv, position, segments).astype(jnp.float32)))

    step = jax.jit(jax.grad(objective, (0, 1)))
    program, found = compiled(step.lower(qkv, position, segments))
    seconds = timed(lambda: program(qkv, position, segments), min(1, args.seconds))
    # Six matrix products, as if no weight was computed again.
    flops = 6 * 2 * rows * heads * length**2 * depth
    settings = f"{way}, with gradients, {rows} x {length} tokens"
    return {**found, "settings": settings, "seconds": seconds, "flops": flops} | {
        "number": rows * length,
        "unit": "tokens",
        "parts": len(jax.devices()),  # of the machine's peak: one device works
    }


def trie_step(args, num_items: int) -> dict:
    """Children of all beams, which of them exist, and the best: many steps in one program."""
    batch, beams = args.batch[0], args.beams[0]
    trie = jax.device_put(_catalog(num_items))
    width = max(trie.max_children)
    scores = jax.random.normal(jax.random.key(0), (batch, beams, width))

    def step(_, nodes_BxJ, trie, scores):
        allowed = search._Allowed(None, None, None)
        choices = search._choices_in_trie(trie, nodes_BxJ, width, allowed, None, 0.0)
        valid = jnp.where(choices.valid_BxJxC, scores, search.DEAD).reshape(batch, -1)
        best, index = jax.lax.top_k(valid, beams)
        nodes = jnp.take_along_axis(choices.nodes_BxJxC.reshape(batch, -1), index, axis=1)
        return jnp.where(best > search.DEAD, nodes, 0)

    def run(trie, scores):
        start = jnp.zeros((batch, beams), jnp.int32)
        return jax.lax.fori_loop(
            0, STEPS_OF_TRIE, lambda i, nodes: step(i, nodes, trie, scores), start
        )

    program, found = compiled(jax.jit(run).lower(trie, scores))
    seconds = timed(lambda: program(trie, scores), min(1, args.seconds)) / STEPS_OF_TRIE
    return {
        **found,
        "seconds": seconds,
        "number": batch,
        "unit": "users' steps",
    }


def rows_of(args, number: int) -> dict[str, np.ndarray]:
    """So many packed rows; those of the file, repeated."""
    path = args.rows or args.out / "rows.npz"
    if not path.exists():
        _write_rows(args, path)
    with np.load(path) as stored:
        rows = dict(stored)
    return {name: np.resize(array, (number, array.shape[1])) for name, array in rows.items()}


def _write_rows(args, path: Path) -> None:
    if args.data_dir:
        rows = _real_rows(args)
    else:
        rows = _synthetic_rows(args, args.max_rows)
    partial = path.with_suffix(".partial.npz")
    np.savez(partial, **rows)
    partial.replace(path)


def _real_rows(args) -> dict[str, np.ndarray]:
    from bench_pipeline import set_up

    from recllm_tasks.pipeline.training import training_batches

    mixture = set_up(args.dataset, args.data_dir, None)
    lengths = {"inputs": args.inputs, "targets": args.targets}
    return next(training_batches(mixture, lengths, args.max_rows, seed=0))


def _synthetic_rows(args, number: int) -> dict[str, np.ndarray]:
    """Random tokens; prompts of some 300 tokens and targets of some 20, as many as fit."""
    rng = np.random.Generator(np.random.Philox(key=0))
    sides = {"encoder": args.inputs, "decoder": args.targets}
    rows = {f"{side}_segment_ids": np.zeros((number, n), np.int32) for side, n in sides.items()}
    for row in range(number):
        used, segment = dict.fromkeys(sides, 0), 1
        while True:
            size = {
                side: max(2, int(mean * rng.uniform(0.4, 1.6)))
                for side, mean in (("encoder", args.inputs * 0.3), ("decoder", args.targets * 0.08))
            }
            if any(used[side] + size[side] > sides[side] for side in sides):
                break
            for side, start in used.items():
                rows[f"{side}_segment_ids"][row, start : start + size[side]] = segment
            used = {side: used[side] + size[side] for side in sides}
            segment += 1
    for side, kind in (("encoder", "input"), ("decoder", "target")):
        segments = rows[f"{side}_segment_ids"]
        tokens = rng.integers(3, args.vocabulary, segments.shape, dtype=np.int32)
        rows[f"{side}_{kind}_tokens"] = np.where(segments > 0, tokens, 0)
    segments, targets = rows["decoder_segment_ids"], rows["decoder_target_tokens"]
    same = np.pad(segments[:, 1:] == segments[:, :-1], ((0, 0), (1, 0)))
    before = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    rows["decoder_input_tokens"] = np.where(same, before, 0)
    return rows


def copy_input(args) -> dict:
    """Batches from the host's memory to the devices, without anything else."""
    mesh = devices.make_mesh()
    rows = rows_of(args, args.max_rows * mesh.shape["data"])
    split = devices.split_batch(mesh)
    seconds = timed(lambda: devices.put(rows, split), min(1, args.seconds))
    number = len(rows["encoder_input_tokens"])
    return {"settings": f"{number} rows", "seconds": seconds, "number": number, "unit": "rows"}


def pipeline(args) -> dict:
    """Rows that this host makes in a second, with all cores."""
    from bench_pipeline import set_up

    from recllm_tasks.pipeline import throughput

    mixture = set_up(args.dataset, args.data_dir, None)
    lengths = {"inputs": args.inputs, "targets": args.targets}
    found = throughput.measure(mixture, lengths, 4 * args.seconds)
    settings = f"{mixture}, {os.cpu_count()} cores"
    return {"settings": settings, "seconds": 1.0, "number": found.rows, "unit": "rows"}


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
