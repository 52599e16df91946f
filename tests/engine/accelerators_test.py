"""What would be slow on accelerators, read from compiled programs on eight virtual devices."""

import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import recllm_tasks.mixtures  # noqa: F401
from recllm_tasks.engine import devices, initial_state, optimizer, saved_run, training
from recllm_tasks.models import beam_search
from recllm_tasks.models.trie import Trie

_STEP = """
import json, sys
import jax, numpy as np
from recllm_tasks.engine import devices, initial_state, optimizer
from recllm_tasks.engine.train_step import train_step
from recllm_tasks.models.network import T5Config, Transformer

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **more: compiled.append(name)
)
network = Transformer(T5Config(vocab_size=256, emb_dim=128, num_heads=2, head_dim=64, mlp_dim=128,
                               num_encoder_layers=1, num_decoder_layers=1))
rule = getattr(optimizer, sys.argv[1])(optimizer.constant_with_warmup())
mesh = devices.make_mesh(model_parallel=2)
state = initial_state.random_state(network, rule, mesh, 0)
tokens = np.ones((8, 4), np.int32)
names = ("encoder_input_tokens", "decoder_input_tokens", "decoder_target_tokens")
batch = devices.put(dict.fromkeys(names, tokens), devices.split_batch(mesh))
key = jax.random.key(0)
leaves = jax.tree.leaves(state)
large = [i for i, x in enumerate(leaves) if x.size > 1]
program = train_step.lower(network, rule, state, batch, key, parts=4).compile()
own = [sum(s.data.nbytes for s in x.addressable_shards[:1]) for x in leaves if x.size > 1]
for _ in range(3):
    state, measures = train_step(network, rule, state, batch, key, parts=4)
    if not _:
        jax.block_until_ready(state)
        compiled.clear()
print("RESULT", json.dumps({
    "bytes": sum(own), "aliased": program.memory_analysis().alias_size_in_bytes,
    "again": sum("backend_compile" in name for name in compiled),
    "deleted": all(x.is_deleted() for i, x in enumerate(leaves) if i in large),
    "split": [len({str(s.index) for s in x.addressable_shards}) for x in jax.tree.leaves(
        state.opt_state) if x.ndim == 2 and x.size > 1],
}))
"""


def _on_eight_devices(program: str, *arguments: str) -> dict:
    """What a program prints after RESULT."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("RESULT"))


@pytest.mark.parametrize("rule", ["adamw", pytest.param("adafactor", marks=pytest.mark.slow)])
def test_a_step_reuses_the_memory_of_the_state_and_is_compiled_once(rule):
    found = _on_eight_devices(_STEP, rule)
    # Of the state on a device, all but scalars.
    assert found["aliased"] >= found["bytes"] > 0
    assert found["deleted"]
    assert found["again"] == 0
    # Moments of matrices are split as these are, over the two devices of a copy.
    assert not found["split"] or max(found["split"]) == 2


def test_parameters_are_read_one_by_one_and_each_device_gets_its_part(network, monkeypatch):
    """The host holds one parameter at a time: it is sent before the next is read."""
    mesh = devices.make_mesh()
    like = traverse_util.flatten_dict(saved_run.abstract_params(network, mesh), sep="/")
    events = []

    class Source:
        where = "here"

        def read(self, path):
            events.append(path)
            return np.ones(like[path].shape, np.float32)

    put = jax.device_put
    monkeypatch.setattr(jax, "device_put", lambda x, to: events.append(to) or put(x, to))
    rule = optimizer.adafactor(optimizer.constant_with_warmup())
    initial_state.state_of(Source(), network, rule, mesh, 0)
    expected = [event for path, leaf in like.items() for event in (path, leaf.sharding)]
    assert events[: len(expected)] == expected


def test_the_next_batch_is_sent_before_anything_waits_for_this_one(
    monkeypatch, tmp_path, settings, small_data
):
    events = []
    put, step, summary = devices.put, training.train_step, training._Window.summary

    monkeypatch.setattr(devices, "put", lambda *a: events.append("send") or put(*a))
    monkeypatch.setattr(
        training, "train_step", lambda *a, **k: events.append("step") or step(*a, **k)
    )
    monkeypatch.setattr(
        training._Window, "summary", lambda self: events.append("wait") or summary(self)
    )
    monkeypatch.setattr(training, "validation_of", lambda *a: None)
    training.train(mixture="gift_cards_ut", model_dir=str(tmp_path), steps=4, **settings)
    # A validation is due after three steps; the last step needs no batch after it.
    expected = ["send", "step", "send", "step", "send", "step", "send", "wait", "step", "wait"]
    assert events == expected


_TRIE = [[3, 4, 5], [3, 6], [7, 8, 9, 2], [7, 5]]


def _draw(network, key):
    token = np.ones((1, 1), np.int32)
    return network.init(key, token, token, token, enable_dropout=False)["params"]


def test_a_beam_search_is_one_program_that_never_asks_the_host(network):
    trie, inputs = Trie.build(_TRIE), np.ones((2, 8), np.int32)
    params = jax.eval_shape(lambda key: _draw(network, key), jax.random.key(0))

    def search(params, inputs, trie):
        return beam_search.beam_search(network, params, inputs, trie, num_beams=3)

    program = jax.jit(search).lower(params, jnp.asarray(inputs), trie).compile().as_text()
    assert not re.findall(r"infeed|outfeed|callback|send\(|recv\(", program)
    assert len(re.findall(r"^ENTRY", program, re.M)) == 1


def test_a_beam_search_reads_nothing_back(network, monkeypatch):
    """Of all arrays, not only those of the program. JAX's transfer guard allows all on CPUs."""
    params = jax.jit(lambda key: _draw(network, key))(jax.random.key(0))
    trie, inputs, read = Trie.build(_TRIE), np.ones((2, 8), np.int32), []
    array = type(jnp.ones(1))
    value = array._value.fget
    monkeypatch.setattr(array, "_value", property(lambda x: read.append(x.shape) or value(x)))
    beams = beam_search.beam_search(network, params, inputs, trie, num_beams=3)
    jax.block_until_ready(beams)
    assert read == []
    assert np.isfinite(float(beams.log_probs_BxK[0, 0]))
    assert read, "what is read is noticed"


_LOAD = """
import json
import jax, numpy as np
from flax import traverse_util
from recllm_tasks.engine import devices, initial_state, optimizer, saved_run
from recllm_tasks.models.network import T5Config, Transformer

network = Transformer(T5Config(vocab_size=4096, emb_dim=256, num_heads=8, head_dim=32, mlp_dim=512,
                               num_encoder_layers=4, num_decoder_layers=4))
mesh = devices.make_mesh(model_parallel=8)
like = traverse_util.flatten_dict(saved_run.abstract_params(network, mesh), sep="/")
most = {}

def on_devices():
    # An array and the arrays of its shards have the same buffers.
    held = {(shard.device.id, shard.data.unsafe_buffer_pointer()): shard.data.nbytes
            for array in jax.live_arrays() for shard in array.addressable_shards}
    for device in jax.devices():
        size = sum(size for (number, _), size in held.items() if number == device.id)
        most[device.id] = max(most.get(device.id, 0), size)

class Source:
    where = "here"
    def read(self, path):
        on_devices()
        return np.ones(like[path].shape, np.float32)

put = jax.device_put
def watched(x, to):
    found = put(x, to)
    on_devices()
    return found

jax.device_put = watched
rule = optimizer.adafactor(optimizer.constant_with_warmup())
state = initial_state.state_of(Source(), network, rule, mesh, 0)
sizes = {"all": 4 * sum(x.size for x in like.values()),
         "largest": 4 * max(x.size for x in like.values())}
share = sum(4 * int(np.prod(x.sharding.shard_shape(x.shape))) for x in like.values())
print("RESULT", json.dumps({"most": most, "share": share, **sizes}))
"""


def test_no_device_holds_more_than_its_share_while_parameters_are_loaded():
    """Of a small XL: eight devices share each of its matrices."""
    found = _on_eight_devices(_LOAD)
    assert len(found["most"]) == 8
    assert found["share"] < found["all"] / 7
    assert found["share"] + found["largest"] < found["all"] / 2, "else the bound says little"
    for size in found["most"].values():
        assert found["share"] <= size <= found["share"] + found["largest"]
