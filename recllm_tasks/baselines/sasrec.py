"""SASRec: causal self-attention over a user's items, softmax over the catalog.

The network is Kang and McAuley's (2018, Self-Attentive Sequential Recommendation) with a softmax
over the catalog in place of a loss over one negative (Klenitskiy and Vasilev 2023, Turning Dross
Into Gold Loss):

    x      = dropout(E[item])
    x      = x + dropout(attention(norm(x)));  x = x + dropout(mlp(norm(x)))    in each block
    score_t(b) = norm(x_t) . E[b]
    loss   = mean over t of -log softmax(score_t)[item_{t+1}]

Our choice: attention knows positions by a learned bias for each distance, the same wherever
a piece begins; every item after a user's first is a target once an epoch; users lie end to end in
rows of L places, 98 % of which hold a target, and attend to their own items only. Sequences longer
than a row are cut at a place that is new every epoch. In catalogs of more than `max_softmax` items
the softmax is over a sample, so that time and memory of a step do not grow with the catalog but for
the optimizer's.

It is fitted on train only. A history is an input; for test it includes the validation item, as
every model's prompt does. The parameters of the epoch with the best NDCG@10 on the validation
targets are kept. The training's state is written after every epoch, and a stopped training resumes
with equal bits, since what is drawn depends on the seed, the epoch and the batch alone. One device
computes.

Memory: parameters, the optimizer's two moments, a gradient and the best parameters, each N x D
float32; logits of _CHUNK x N or T x S; hidden states of U x D when evaluated.

Letters: R rows of a batch, L places of a row, T = R * L targets, C of a chunk, N items, S sampled
items, D width, U users, H heads.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import linen as nn

from recllm_tasks import __version__, array_file, progress
from recllm_tasks.baselines import evaluation
from recllm_tasks.baselines.interactions import SplitInteractions
from recllm_tasks.errors import UserError
from recllm_tasks.files import locked
from recllm_tasks.models.cross_entropy import OutputTable, cross_entropy

# The folder of a row's states, in the row's folder.
FOLDER = "training"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Of network and training.

    Attributes:
      width: D.
      blocks: of attention and MLP.
      heads: H of a block.
      dropout: of embeddings, attention weights and both outputs of a block.
      length: L, the latest items of a history that count.
      rows: R of a batch.
      learning_rate: of AdamW, after the warm-up; it ends at END of it, along a cosine.
      weight_decay: of AdamW.
      epochs: the most of them.
      patience: training stops after so many epochs without a better validation.
      max_softmax: in larger catalogs the softmax is over the target and S sampled items.
      sampled: S, the same ones for the T targets of a step.
    """

    width: int = 128
    blocks: int = 1
    heads: int = 1
    dropout: float = 0.4
    length: int = 64
    rows: int = 16
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    epochs: int = 15
    patience: int = 4
    max_softmax: int = 65_536
    sampled: int = 8_192


# Our choice, by NDCG@10 on validation of Toys, seed 0: .0764 after epoch 14, .0752 after epoch 9
# (item-to-item, slow: .065). Measured before, with the epoch in brackets:
#   a sample of 1,024 for the softmax, D 256, dropout .3, rate 2e-3: .0653 (12), then overfitting;
#     dropout .5: .0541 (15), still rising; the sample counted as 256 items: .0600 (9);
#   two blocks of two heads, rate 2e-3, weight decay .05: .0088 (2), whatever the kernels begin at;
#     the default has .0191;
#   dropout .5: .0188 (3); the default has .0345.
# Not tried: other widths with the whole softmax, label smoothing, averages of parameters, rates
# above 3e-3.
DEFAULT = Settings()
_WARM_UP = 100  # steps
_END = 0.02
# Of the table and all kernels, as in BERT: with kernels of unit gain, a state would begin far from
# its item's row.
_INITIAL = nn.initializers.normal(0.02)
_MASKED = -1e9
# Targets whose logits are in memory at once: the fastest on a CPU, for Toys.
_CHUNK = 256
# Rows that may still have room for a piece.
_RECENT = 16


class Packed(NamedTuple):
    """Pieces of sequences end to end in rows of L places; int32, [rows, L] each.

    Attributes:
      items: catalog rows; 0 where a place is free.
      labels: of each place, such as the next item; -1 for none, and where it is free.
      piece: which piece of its row a place belongs to, from 1; 0 where it is free.
    """

    items: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int32]
    piece: npt.NDArray[np.int32]

    @classmethod
    def empty(cls, rows: int, length: int) -> Self:
        items, labels, piece = np.zeros((3, rows, length), np.int32)
        labels[:] = -1
        return cls(items, labels, piece)

    def batches(self, rows: int) -> Iterator[Self]:
        """Batches of so many rows; free places fill up the last one."""
        missing = self.empty(-len(self.items) % rows, self.items.shape[1])
        whole = [np.concatenate(both) for both in zip(self, missing)]
        for start in range(0, len(whole[0]), rows):
            yield type(self)(*(array[start : start + rows] for array in whole))


# Items of a piece, and their labels.
Piece = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]


def pack(pieces: Iterable[Piece], length: int) -> Packed:
    """Lays pieces of at most L items into rows, each into the first recent row that has room."""
    rows: list[list[Piece]] = []
    free: list[int] = []
    for items, labels in pieces:
        recent = range(max(0, len(rows) - _RECENT), len(rows))
        row = next((row for row in recent if free[row] >= len(items)), len(rows))
        if row == len(rows):
            rows.append([])
            free.append(length)
        rows[row].append((items, labels))
        free[row] -= len(items)
    packed = Packed.empty(len(rows), length)
    for row, of_row in enumerate(rows):
        place = 0
        for number, (items, labels) in enumerate(of_row, 1):
            span = (row, slice(place, place + len(items)))
            packed.items[span], packed.labels[span], packed.piece[span] = items, labels, number
            place += len(items)
    return packed


def training_pieces(
    sequences: Iterable[npt.NDArray[np.int32]], length: int, rng: np.random.Generator
) -> list[Piece]:
    """Cuts sequences into pieces in which every item but a sequence's first is once a label.

    A sequence of more than L labels is cut at a random place, and after every L from there.
    """
    pieces = []
    for items in sequences:
        inputs, targets = items[:-1], items[1:]
        first = len(inputs) if len(inputs) <= length else int(rng.integers(1, length + 1))
        starts = [0, *range(first, len(inputs), length)]
        for start, stop in zip(starts, [*starts[1:], len(inputs)]):
            if stop > start:
                pieces.append((inputs[start:stop], targets[start:stop]))
    return pieces


def epoch_batches(
    sequences: Sequence[npt.NDArray[np.int32]], settings: Settings, seed: int, epoch: int
) -> list[Packed]:
    """An epoch's batches of R rows, in an order of their own."""
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch]))
    pieces = training_pieces(sequences, settings.length, rng)
    packed = pack((pieces[place] for place in rng.permutation(len(pieces))), settings.length)
    order = rng.permutation(len(packed.items))
    return list(Packed(*(array[order] for array in packed)).batches(settings.rows))


class Network(nn.Module):
    """Hidden states of items; a score is their product with the table of items."""

    num_items: int
    settings: Settings

    def setup(self):
        of = self.settings
        self.table = self.param("items", _INITIAL, (self.num_items, of.width))
        self.blocks = [Block(of) for _ in range(of.blocks)]
        self.norm = nn.LayerNorm()

    def __call__(self, packed: Packed, key: jax.Array | None = None) -> jax.Array:
        """Hidden states [R, L, D]; `key` is for dropout, None for none of it."""
        keys = _keys(key, 1 + self.settings.blocks)
        x_RxLxD = jnp.take(self.table, packed.items, axis=0, mode="clip")
        x_RxLxD = dropout(x_RxLxD, keys[0], self.settings.dropout)
        same_RxLxL = packed.piece[:, :, None] == packed.piece[:, None, :]
        seen_RxLxL = same_RxLxL & jnp.tri(packed.items.shape[1], dtype=bool)
        for block, block_key in zip(self.blocks, keys[1:]):
            x_RxLxD = block(x_RxLxD, seen_RxLxL, block_key)
        return self.norm(x_RxLxD)


class Block(nn.Module):
    """Causal self-attention and an MLP, each after a norm and beside a residual connection."""

    settings: Settings

    @nn.compact
    def __call__(self, x_RxLxD, seen_RxLxL, key):
        of = self.settings
        keys = _keys(key, 4)
        dense = functools.partial(nn.Dense, kernel_init=_INITIAL)
        rows, length, _ = x_RxLxD.shape
        joined = dense(3 * of.width, use_bias=False)(nn.LayerNorm()(x_RxLxD))
        split = joined.reshape(rows, length, 3, of.heads, of.width // of.heads)
        query, key_, value = jnp.moveaxis(split, (2, 3), (0, 2))  # [R, H, L, D / H] each
        logits_RxHxLxL = jnp.einsum("rhqd,rhkd->rhqk", query, key_) / np.sqrt(query.shape[-1])
        bias_HxL = self.param("bias", nn.initializers.zeros, (of.heads, of.length))
        logits_RxHxLxL = logits_RxHxLxL + by_distance(bias_HxL)
        logits_RxHxLxL = jnp.where(seen_RxLxL[:, None], logits_RxHxLxL, _MASKED)
        weights_RxHxLxL = dropout(jax.nn.softmax(logits_RxHxLxL), keys[0], of.dropout)
        mixed = jnp.einsum("rhqk,rhkd->rqhd", weights_RxHxLxL, value).reshape(x_RxLxD.shape)
        mixed = dense(of.width, use_bias=False)(mixed)
        x_RxLxD = x_RxLxD + dropout(mixed, keys[1], of.dropout)
        inner = nn.relu(dense(of.width)(nn.LayerNorm()(x_RxLxD)))
        out = dense(of.width)(dropout(inner, keys[2], of.dropout))
        return x_RxLxD + dropout(out, keys[3], of.dropout)


def by_distance(values_HxL: jax.Array) -> jax.Array:
    """[H, L, L] with values[h, i - j] at (h, i, j) where j <= i, and 0 elsewhere.

    Rows of 2 L - 1 are read from repeats of 2 L, which moves each one place to the right: the
    gradient is then a plain sum instead of a scatter over L * L.
    """
    heads, length = values_HxL.shape
    wheel = jnp.concatenate(
        [values_HxL[:, :1], jnp.zeros_like(values_HxL), values_HxL[:, :0:-1]], axis=1
    )
    repeated = jnp.broadcast_to(wheel[:, None], (heads, length, 2 * length)).reshape(heads, -1)
    rows = repeated[:, : length * (2 * length - 1)].reshape(heads, length, 2 * length - 1)
    return rows[:, :, :length]


def _keys(key: jax.Array | None, num: int) -> Sequence[jax.Array | None]:
    return [None] * num if key is None else list(jax.random.split(key, num))


def dropout(x: jax.Array, key: jax.Array | None, rate: float) -> jax.Array:
    """Sets a share of the values to 0, in steps of 1/256, and scales up the others.

    One random byte a value: four times as fast as Flax's, which draws a float for each.
    """
    dropped = round(rate * 256)
    if key is None or not dropped:
        return x
    words = jax.random.bits(key, (-(-x.size // 4),), jnp.uint32)
    values = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size].reshape(x.shape)
    return jnp.where(values >= dropped, x * (256 / (256 - dropped)), 0)


def sampled_cross_entropy(
    hidden_TxD: jax.Array,
    table_NxD: jax.Array,
    targets_T: jax.Array,
    weights_T: jax.Array,
    sampled_S: jax.Array,
) -> jax.Array:
    """The weighted sum of -log softmax, with the sum over the catalog estimated from a sample.

    Args:
      hidden_TxD: hidden states.
      table_NxD: of the catalog's items.
      targets_T: the catalog row of each.
      weights_T: of each target.
      sampled_S: catalog rows, drawn uniformly with replacement. They stand for the N items but the
        target: each counts N / S times, and not where it is the target itself.
    """
    of_targets_T = jnp.sum(hidden_TxD * jnp.take(table_NxD, targets_T, axis=0, mode="clip"), -1)
    logits_TxS = hidden_TxD @ jnp.take(table_NxD, sampled_S, axis=0, mode="clip").T
    logits_TxS += np.log(len(table_NxD) / len(sampled_S))
    logits_TxS = jnp.where(targets_T[:, None] == sampled_S, _MASKED, logits_TxS)
    sums_T = jnp.logaddexp(jax.nn.logsumexp(logits_TxS, axis=-1), of_targets_T)
    return jnp.sum((sums_T - of_targets_T) * weights_T)


class Training(NamedTuple):
    """What is written after every epoch.

    Attributes:
      params: of the network.
      optimizer: its state.
      best: the parameters with the best validation.
      validation: NDCG@10 of the epochs so far, float64 [settings.epochs], NaN for the others.
      seconds: of training and validation, float64.
    """

    params: Any
    optimizer: Any
    best: Any
    validation: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]

    @property
    def epochs(self) -> int:
        return int(np.sum(~np.isnan(self.validation)))

    @property
    def best_epoch(self) -> int:
        """From 1; 0 before the first one is validated."""
        return int(np.nanargmax(self.validation)) + 1 if self.epochs else 0

    def is_over(self, patience: int) -> bool:
        waited = self.epochs - self.best_epoch >= patience
        return waited or self.epochs == len(self.validation)


@dataclasses.dataclass(frozen=True)
class SASRec:
    """A fitted model.

    Attributes:
      network: with its settings.
      params: of the best epoch.
      epoch: that one, from 1.
      validation: NDCG@10 of each epoch.
      seconds: of training in all processes.
    """

    network: Network
    params: Any
    epoch: int
    validation: list[float]
    seconds: float

    @property
    def num_parameters(self) -> int:
        return sum(array.size for array in jax.tree.leaves(self.params))

    def score_block(self, interactions: SplitInteractions) -> evaluation.ScoreBlock:
        return score_block(self.network, self.params, interactions)


def fit(
    validation: SplitInteractions,
    folder: pathlib.Path,
    exclude_seen: bool = True,
    seed: int = 0,
    settings: Settings = DEFAULT,
) -> SASRec:
    """Trains, or resumes a training of the same data, settings and seed.

    Args:
      validation: interactions of that split; its train part is fitted on.
      folder: for the state of training; created.
      exclude_seen: whether validation leaves out the history.
      seed: of parameters, order, dropout and sampled items.
      settings: of network and training.

    Raises:
      UserError: the folder cannot be written to, another training holds it, no user of train has
        two items, or training diverged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = Network(validation.num_items, settings)
    file = folder / f"{_fingerprint(validation, exclude_seen, seed, settings)}.npy"
    with locked(folder, "training"):
        for other in set(folder.glob("*.npy")) - {file}:
            other.unlink()
        training = _train(network, validation, file, exclude_seen, seed)
    curve = training.validation[: training.epochs].tolist()
    return SASRec(network, training.best, training.best_epoch, curve, float(training.seconds))


def _train(
    network: Network,
    validation: SplitInteractions,
    file: pathlib.Path,
    exclude_seen: bool,
    seed: int,
) -> Training:
    of, sequences = network.settings, validation.train_items
    num_examples = sum(len(items) - 1 for items in sequences if len(items))
    if not num_examples:
        raise UserError(
            "train records for 'sasrec': got none of two items, expected histories to learn from; "
            "leave out the row sasrec"
        )
    num_steps = len(epoch_batches(sequences, of, seed, 0))
    optimizer = optax.adamw(_schedule(of, num_steps), weight_decay=of.weight_decay)
    step = _step_function(network, optimizer)
    key = jax.random.key(seed, impl="unsafe_rbg")
    training = _restore(file, _initial(network, optimizer, seed))
    total, done = of.epochs * num_steps, training.epochs * num_steps
    note = ""
    with progress.work("sasrec", total, done) as work:
        while not training.is_over(of.patience):
            start, losses = time.monotonic(), []
            params, state, epoch = training.params, training.optimizer, training.epochs
            for number, batch in enumerate(epoch_batches(sequences, of, seed, epoch)):
                step_key = jax.random.fold_in(jax.random.fold_in(key, epoch), number)
                params, state, loss = step(params, state, batch, step_key)
                losses.append(loss)
                work.advance(1, note)
            loss = float(np.mean(jax.device_get(losses)))
            if not np.isfinite(loss):
                raise UserError(
                    f"Training of 'sasrec': got a loss of {loss} in epoch {epoch + 1}, expected a "
                    "finite one; choose another --seed"
                )
            rate = num_examples / (time.monotonic() - start)
            training = _validated(training, network, params, state, validation, exclude_seen)
            seconds = training.seconds + (time.monotonic() - start)
            training = training._replace(seconds=np.asarray(seconds))
            _save(file, training)
            ndcg = training.validation[epoch]
            note = f"{rate:,.0f} examples/s, loss {loss:.3f}, validation ndcg@10 {ndcg:.4f}"
    return training


def _schedule(of: Settings, num_steps: int) -> optax.Schedule:
    """Linear warm-up, then half a cosine down to a share of _END at the last epoch."""
    total = of.epochs * num_steps
    warm_up = min(_WARM_UP, total // 2)
    return optax.warmup_cosine_decay_schedule(
        0.0, of.learning_rate, warm_up, total, _END * of.learning_rate
    )


def _step_function(network: Network, optimizer: optax.GradientTransformation) -> Callable:
    """A training step: (params, optimizer state, batch, key) to new ones and the loss."""
    of = network.settings

    def loss_of(params, batch: Packed, key):
        network_key, sample_key = jax.random.split(key)
        hidden_RxLxD = network.apply(params, batch, network_key)
        hidden_TxD = hidden_RxLxD.reshape(-1, hidden_RxLxD.shape[-1])
        targets_T = jnp.reshape(batch.labels, -1)
        is_target_T = targets_T >= 0
        number = jnp.maximum(jnp.sum(is_target_T), 1)
        table_NxD = params["params"]["items"]
        if network.num_items <= of.max_softmax:
            table = OutputTable(table_NxD, vocab_axis=0)
            loss, _ = cross_entropy(hidden_TxD, table, targets_T, is_target_T, chunk=_CHUNK)
            return loss / number
        sampled_S = jax.random.randint(sample_key, (of.sampled,), 0, network.num_items)
        weights_T = is_target_T / number
        return sampled_cross_entropy(hidden_TxD, table_NxD, targets_T, weights_T, sampled_S)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch, key):
        loss, gradient = jax.value_and_grad(loss_of)(params, batch, key)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    return step


def _initial(network: Network, optimizer: optax.GradientTransformation, seed: int) -> Training:
    one = Packed.empty(1, network.settings.length)
    params = jax.jit(network.init)(jax.random.key(seed), one)
    curve = np.full(network.settings.epochs, np.nan)
    best = jax.tree.map(np.array, params)
    return Training(params, optimizer.init(params), best, curve, np.zeros(()))


def _validated(
    training: Training,
    network: Network,
    params: Any,
    state: Any,
    validation: SplitInteractions,
    exclude_seen: bool,
) -> Training:
    """The training with one more epoch."""
    block = score_block(network, params, validation)
    curve = training.validation.copy()
    curve[training.epochs] = evaluation.retrieval(block, validation, exclude_seen)["ndcg@10"]
    found = training._replace(params=params, optimizer=state, validation=curve)
    is_best = found.best_epoch == found.epochs
    # A copy, since the next step reuses the memory of the parameters.
    return found._replace(best=jax.tree.map(np.array, params)) if is_best else found


def score_block(
    network: Network, params: Any, interactions: SplitInteractions
) -> evaluation.ScoreBlock:
    """Scores for the evaluated users; without a history, by popularity in train."""
    hidden_UxD = hidden_states(network, params, interactions.history_items)
    table_NxD = np.asarray(params["params"]["items"])
    is_new_U = np.array([not len(items) for items in interactions.history_items], bool)
    counts_N = interactions.train_counts()

    def of_block(block: slice) -> npt.NDArray[np.float32]:
        scores_BxN = hidden_UxD[block] @ table_NxD.T
        scores_BxN[is_new_U[block]] = counts_N
        return scores_BxN

    return of_block


def hidden_states(
    network: Network, params: Any, histories: Sequence[npt.NDArray[np.int32]]
) -> npt.NDArray[np.float32]:
    """The state after the last item of each history, float32 [U, D]; 0 without a history."""
    of = network.settings
    recent = [items[-of.length :] for items in histories]
    labels = [np.full(len(items), -1, np.int32) for items in recent]
    for user, row in enumerate(labels):
        row[-1:] = user
    packed = pack((piece for piece in zip(recent, labels) if len(piece[0])), of.length)
    hidden_UxD = np.zeros((len(recent), of.width), np.float32)
    apply = _apply_function(network)
    for batch in packed.batches(of.rows):
        is_last = batch.labels >= 0
        hidden_UxD[batch.labels[is_last]] = np.asarray(apply(params, batch))[is_last]
    return hidden_UxD


@functools.lru_cache(maxsize=1)
def _apply_function(network: Network) -> Callable:
    """Compiled once for all epochs."""
    return jax.jit(lambda params, batch: network.apply(params, batch))


def _fingerprint(
    validation: SplitInteractions, exclude_seen: bool, seed: int, settings: Settings
) -> str:
    """SHA-256 (hex) of everything that a training depends on."""
    facts = [__version__, validation.num_items, exclude_seen, seed, dataclasses.asdict(settings)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for sequences in (validation.train_items, validation.history_items, [validation.targets]):
        digest.update(np.array([len(items) for items in sequences]).tobytes())
        for items in sequences:
            digest.update(np.ascontiguousarray(items).tobytes())
    return digest.hexdigest()


_BYTES = np.dtype(np.uint8)


def _save(file: pathlib.Path, training: Training) -> None:
    leaves = map(np.ascontiguousarray, jax.tree.leaves(training))
    array_file.write(file, _BYTES, (leaf.reshape(-1).view(_BYTES).data for leaf in leaves))


def _restore(file: pathlib.Path, initial: Training) -> Training:
    """The saved state, with the initial one's shapes and dtypes; that one if there is none."""
    if not file.exists():
        return initial
    content = array_file.read(file, _BYTES)
    if content is None:
        progress.console.print(f"'{file}' is damaged: training starts anew", markup=False)
        return initial
    leaves, structure = jax.tree.flatten(initial)
    ends = np.cumsum([leaf.nbytes for leaf in leaves])
    parts = np.split(content, ends[:-1])
    read = (np.frombuffer(part.tobytes(), leaf.dtype) for part, leaf in zip(parts, leaves))
    found = [part.reshape(leaf.shape).copy() for part, leaf in zip(read, leaves)]
    return jax.tree.unflatten(structure, found)
