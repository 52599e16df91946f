"""Memory and work of a model's train step and beam search on each accelerator, by the compiler.

    python tools/plan_memory.py --model flan_t5_base
    python tools/plan_memory.py --model flan_t5_xl --layers 2,4 --libtpu FOLDER
    python tools/plan_memory.py --model flan_t5_xl --layers 2,4 --devices 8 --mesh 4x2

Compiles our engine's train step (Adafactor, dropout) and its beam search over a catalog ahead of
time, for devices that need not be present. Prints Markdown: memory per device, work per step, and
which accelerators the model fits on. Nothing is allocated or run. Steps, batch size, remat policy
and the number of devices that share one copy of the parameters come from the model's gin file,
unless an option overrides them.

Without `--libtpu`, everything is compiled for CPUs. They compute bfloat16 in float32 and do not
schedule work to save memory: activations come out several times too large, work is right within a
few percent. With `--libtpu` (`pip install --target FOLDER --no-deps libtpu`), programs for TPUs are
compiled by the TPU compiler. Neither counts the runtime's buffers for exchange between devices.

A large model takes long to compile. `--layers 2,4` compiles models of 2 and 4 layers per stack and
extrapolates linearly. Work is linear in the layers, and so is memory on CPUs. The TPU compiler
chooses other strategies for more layers, so extrapolated memory may be twice the true value, or
decrease, which is printed as unknown. Compile all layers to be sure.
"""

import argparse
import dataclasses
import functools
import math
import os
import pathlib
import sys
import time

from recllm_tasks.engine import capacity

GIN = pathlib.Path(__file__).resolve().parents[1] / "gin" / "models"

# Makes the TPU compiler optimise speed less, so that large models compile.
TPU_OPTIONS = {"exec_time_optimization_effort": -1.0}

# Share of the matrix units' peak.
UTILIZATION = 0.4
# As in gin/runs/t5x_finetune.gin and t5x_eval.gin.
LENGTHS = {"encoder": 1024, "decoder": 256}
TRAIN_DTYPE, BEAM_DTYPE = "bfloat16", "float32"
BEAMS, DECODE_BATCH = 20, 32
# Items in a catalog as large as Toys, and tokens per id in the published vocabulary.
CATALOG, ID_TOKENS = 12_000, 4

V3 = {"topology_name": "v3:2x2"}
V4 = {"topology_name": "v4:2x2x1", "chip_config_name": "megacore"}
V5E = {"topology_name": "v5e:4x4"}


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """Devices as JAX counts them.

    Attributes:
      memory: of one device in GB, as in `capacity.CHIPS`.
      peak: of one device in bfloat16 TFLOP/s, likewise.
      topology: libtpu's description of it.
    """

    name: str
    devices: int
    memory: float
    peak: float
    topology: dict | None = None


def _accelerator(name: str, devices: int, kind: str, topology: dict | None = None) -> Accelerator:
    chip = capacity.chip_of(kind)
    return Accelerator(name, devices, chip.memory, chip.peak, topology)


ACCELERATORS = (
    _accelerator("TPU v3-8", 8, "TPU v3", V3),
    _accelerator("TPU v4-8", 4, "TPU v4", V4),
    _accelerator("TPU v5e-16", 16, "TPU v5 lite", V5E),
    _accelerator("A100 80 GB x8", 8, "A100"),
    _accelerator("H100 x8", 8, "H100"),
)


@dataclasses.dataclass(frozen=True)
class Need:
    """Per device: bytes of memory; FLOPs and bytes moved by one call."""

    parameters: float
    optimizer: float
    temporary: float
    peak: float
    flops: float
    moved: float

    def toward(self, other: "Need", share: float) -> "Need":
        """Linear interpolation: this one at share 0, `other` at share 1."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Need(*(a + (b - a) * share for a, b in pairs))


def read_model(args, dtype: str, layers: int | None = None):
    """The gin file's network with `layers` per stack (None: all), and the file's macros."""
    import gin

    from recllm_tasks.models.network import Transformer

    gin.clear_config()
    settings = [f"DROPOUT_RATE = {args.dropout}", f"network.T5Config.dtype = '{dtype}'"]
    if args.remat is not None:
        settings.append(f"network.T5Config.remat = {args.remat}")
    gin.parse_config_files_and_bindings(
        [str(GIN / f"{args.model}.gin")], settings, finalize_config=False
    )
    config = gin.get_configurable("network.T5Config")()
    if layers:
        sizes = dict.fromkeys(("num_encoder_layers", "num_decoder_layers"), layers)
        config = dataclasses.replace(config, **sizes)
    names = ("STEPS", "BATCH_SIZE", "MODEL_PARALLEL")
    macros = {name: gin.query_parameter(f"%FINETUNE_{name}") for name in names}
    # `None` would choose for the device that compiles, not for the one that runs.
    return Transformer(dataclasses.replace(config, loop_attention=False)), macros


def abstract(shape, dtype, sharding):
    import jax

    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def bytes_on_a_device(tree) -> int:
    import jax

    leaves = jax.tree.leaves(tree)
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)


def lower_train(args, mesh, layers):
    """(lowered step, bytes of parameters and of the optimizer state, FLOPs not counted in it).

    XLA counts a loop once, whatever its length: that of the loss goes over chunks of positions.
    """
    import jax
    import jax.numpy as jnp

    from recllm_tasks.engine import devices, optimizer, saved_run
    from recllm_tasks.engine.train_step import State, train_step
    from recllm_tasks.models.cross_entropy import ACCELERATOR_BYTES, chunk_of

    network, _ = read_model(args, TRAIN_DTYPE, layers)
    rule = optimizer.adafactor(optimizer.constant_with_warmup())
    params, whole = saved_run.abstract_params(network, mesh), devices.replicated(mesh)
    moments, split = jax.eval_shape(rule.init, params), whole
    if mesh.shape["model"] > 1:
        split = devices.moment_shardings(rule, params, mesh)
    shardings = split if split is not whole else jax.tree.map(lambda _: whole, moments)
    moments = jax.tree.map(lambda x, to: abstract(x.shape, x.dtype, to), moments, shardings)
    features = {"encoder": ("input_tokens",), "decoder": ("target_tokens", "input_tokens")}
    batch = {
        f"{side}_{name}": abstract(
            (args.batch, LENGTHS[side]), jnp.int32, devices.split_batch(mesh)
        )
        for side, names in features.items()
        for name in (*names, "segment_ids", "positions")
    }
    state = State(abstract((), jnp.int32, whole), params, moments)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = abstract(key.shape, key.dtype, whole)
    parts = mesh.shape["data"]
    positions = args.batch // parts * LENGTHS["decoder"]
    chunk = chunk_of(positions, network.config.vocab_size, ACCELERATOR_BYTES)

    def lower(arguments, size):
        return train_step.lower(network, rule, *arguments, parts=parts, chunk=size)

    arguments = state, batch, key
    # On one CPU device: JAX counts nothing in a program for devices that are not present.
    local = jax.tree.map(lambda x: abstract(x.shape, x.dtype, None), arguments)
    counted = [lower(local, size).cost_analysis()["flops"] for size in (chunk, positions)]
    missing = (counted[1] - counted[0]) / mesh.size
    return lower(arguments, chunk), bytes_on_a_device(params), bytes_on_a_device(moments), missing


def lower_beam(args, mesh, layers):
    """The same for a beam search over a catalog, which has no optimizer and no long loop."""
    import jax
    import jax.numpy as jnp

    from recllm_tasks.engine import devices, saved_run
    from recllm_tasks.models.beam_search import beam_search

    network, _ = read_model(args, BEAM_DTYPE, layers)
    params, whole = saved_run.abstract_params(network, mesh), devices.replicated(mesh)
    trie = jax.tree.map(lambda x: abstract(x.shape, x.dtype, whole), catalog())
    inputs = abstract((DECODE_BATCH, LENGTHS["encoder"]), jnp.int32, devices.split_batch(mesh))

    def search(params, inputs, trie):
        return beam_search(network, params, inputs, trie, num_beams=BEAMS, eos_id=1)

    return jax.jit(search).lower(params, inputs, trie), bytes_on_a_device(params), 0, 0


@functools.cache
def catalog():
    from recllm_tasks.models.trie import Trie

    wide = math.ceil(CATALOG ** (1 / (ID_TOKENS - 1)))
    places = range(ID_TOKENS - 1)
    return Trie.build(
        [[2, *(3 + n // wide**place % wide for place in places)] for n in range(CATALOG)]
    )


def compile_need(args, lower, devices, mesh_shape, layers: int | None) -> Need:
    """Compiles one program and reads the compiler's estimates."""
    import numpy as np
    from jax.sharding import Mesh

    size = math.prod(mesh_shape)
    mesh = Mesh(np.array(devices[:size]).reshape(mesh_shape), ("data", "model"))
    start = time.monotonic()
    lowered, parameters, optimizer, missing = lower(args, mesh, layers)
    compiled = lowered.compile(TPU_OPTIONS if devices[0].platform == "tpu" else None)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporary = memory.temp_size_in_bytes
    need = Need(
        parameters,
        optimizer,
        temporary,
        kept + temporary,
        cost["flops"] + missing,
        cost["bytes accessed"],
    )
    which = f"{devices[0].device_kind} {mesh_shape}, {lower.__name__}, {layers or 'all'} layers"
    seconds = time.monotonic() - start
    print(f"{which}: compiled in {seconds:.0f} s: {need}", file=sys.stderr, flush=True)
    return need


def need_of(args, lower, devices, mesh_shape) -> Need:
    """The needs of the whole model: compiled, or extrapolated from two models of fewer layers."""
    if not args.layers:
        return compile_need(args, lower, devices, mesh_shape, None)
    few, more = args.layers
    one, other = (compile_need(args, lower, devices, mesh_shape, n) for n in (few, more))
    all_layers = read_model(args, TRAIN_DTYPE)[0].config.num_encoder_layers
    need = one.toward(other, (all_layers - few) / (more - few))
    if other.temporary < one.temporary:  # The compiler changed its strategy.
        need = dataclasses.replace(need, temporary=math.nan, peak=math.nan)
    return need


MEMORY_HEAD = (
    "| accelerator | mesh | compiled for | program | parameters GB | optimizer MB | "
    "activations, gradients GB | peak GB | of its memory | TFLOP | GB moved |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
)


def memory_row(accelerator: Accelerator, mesh_shape, compiler, program, need: Need) -> str:
    """One row: needs per device of one step, or of one search for all prompts."""
    share = need.peak / 1e9 / accelerator.memory
    fits = f"{share:.0%}, {'fits' if share <= capacity.USABLE else 'does not fit'}"
    known = (f"{need.temporary / 1e9:.2f}", f"{need.peak / 1e9:.2f}", fits)
    cells = (
        accelerator.name,
        f"{mesh_shape[0]}x{mesh_shape[1]}",
        compiler,
        program,
        f"{need.parameters / 1e9:.2f}",
        f"{need.optimizer / 1e6:.1f}",
        *(("–", "–", "unknown") if math.isnan(share) else known),
        f"{need.flops / 1e12:.2f}",
        f"{need.moved / 1e9:.0f}",
    )
    return f"| {' | '.join(cells)} |"


TIME_HEAD = ("| accelerator | mesh | steps/s | hours | device hours |", "|---|---|---|---|---|")


def time_row(args, accelerator: Accelerator, mesh_shape, train: Need) -> str:
    """One row: time of all training steps at `UTILIZATION` of the peak."""
    per_second = UTILIZATION * accelerator.peak * 1e12 / train.flops
    hours = args.steps / per_second / 3600
    mesh = f"{mesh_shape[0]}x{mesh_shape[1]}"
    return (
        f"| {accelerator.name} | {mesh} | {per_second:.2f} | {hours:.2f} | "
        f"{hours * accelerator.devices:.1f} |"
    )


def report(args, find_devices) -> list[str]:
    """The lines of both tables; `find_devices` returns devices to compile for and their name."""
    measured, memory, times = {}, [], []
    for accelerator in args.accelerators:
        devices, compiler = find_devices(accelerator)
        if args.layers:
            compiler += ", {} and {} layers".format(*args.layers)
        for shape in meshes(args, accelerator):
            key = (devices[0].device_kind, shape)
            if key not in measured:
                programs = (lower_train, lower_beam)
                measured[key] = [need_of(args, lower, devices, shape) for lower in programs]
            for program, need in zip(("train step", "beam search"), measured[key]):
                memory.append(memory_row(accelerator, shape, compiler, program, need))
            times.append(time_row(args, accelerator, shape, measured[key][0]))
    remat = read_model(args, TRAIN_DTYPE)[0].config.remat
    lines = [
        f"`{args.model}`, remat {remat}: a step trains on {args.batch} rows of "
        f"{LENGTHS['encoder']} + {LENGTHS['decoder']} tokens, a search finds {BEAMS} beams for "
        f"{DECODE_BATCH} prompts. Per device, estimated by the compiler, not run:",
        "",
    ]
    lines += [*MEMORY_HEAD, *memory, "", f"At {UTILIZATION:.0%} of peak, {args.steps:,} steps:", ""]
    return [*lines, *TIME_HEAD, *times]


def meshes(args, accelerator: Accelerator) -> list[tuple[int, int]]:
    """(data, model) from --mesh, or from the model's gin file."""
    model = read_model(args, TRAIN_DTYPE)[1]["MODEL_PARALLEL"]
    return args.mesh or [(accelerator.devices // model, model)]


def pair(separator: str):
    def parse(text):
        one, other = map(int, text.split(separator))
        return one, other

    return parse


def parse_arguments(argv) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="flan_t5_xl", help="a file of gin/models")
    parser.add_argument("--devices", type=int, help="only accelerators with this many devices")
    parser.add_argument("--accelerator", action="append", help="only this accelerator; repeatable")
    parser.add_argument("--mesh", type=pair("x"), action="append", help="DATAxMODEL; repeatable")
    parser.add_argument("--batch", type=int, help="rows per training batch")
    parser.add_argument("--steps", type=int, help="training steps")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--remat", action=argparse.BooleanOptionalAction)
    parser.add_argument("--layers", type=pair(","), help="extrapolate from two, such as 2,4")
    parser.add_argument("--libtpu", metavar="FOLDER", help="where pip installed libtpu")
    args = parser.parse_args(argv)
    args.accelerators = [
        accelerator
        for accelerator in ACCELERATORS
        if args.devices in (None, accelerator.devices)
        and (not args.accelerator or accelerator.name in args.accelerator)
    ]
    if not args.accelerators:
        known = ", ".join(f"'{x.name}' ({x.devices} devices)" for x in ACCELERATORS)
        parser.error(f"got options that match no accelerator, expected one of {known}")
    _, macros = read_model(args, TRAIN_DTYPE)
    args.batch = args.batch or macros["BATCH_SIZE"]
    args.steps = args.steps or macros["STEPS"]
    for accelerator in args.accelerators:
        for data, model in meshes(args, accelerator):
            if data * model != accelerator.devices or args.batch % data or DECODE_BATCH % data:
                parser.error(
                    f"got the mesh {data}x{model} for '{accelerator.name}', expected all its "
                    f"devices, and a data axis that divides {args.batch} rows and {DECODE_BATCH}"
                )
    return args


def prepare() -> None:
    """Gives JAX, before it starts, as many CPU devices as any accelerator has."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flag = f"--xla_force_host_platform_device_count={max(x.devices for x in ACCELERATORS)}"
    # By default, the CPU scheduler trades memory for concurrency.
    flag += " --xla_cpu_enable_concurrency_optimized_scheduler=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"


def find_devices(accelerator: Accelerator, libtpu: str | None):
    """Devices to compile for and their name: TPU devices, or CPU devices in their place."""
    import jax
    from jax.experimental import topologies

    if not (libtpu and accelerator.topology):
        return jax.devices(), "CPU"
    os.environ["TPU_LIBRARY_PATH"] = os.path.join(libtpu, "libtpu", "libtpu.so")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    found = topologies.get_topology_desc(platform="tpu", **accelerator.topology).devices
    return found, found[0].device_kind


def main(argv=None) -> int:
    prepare()
    args = parse_arguments(argv)
    print("\n".join(report(args, functools.partial(find_devices, libtpu=args.libtpu))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
