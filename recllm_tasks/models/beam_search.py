"""Beam search over a catalog's trie or over the whole vocabulary, and scores of given targets.

A hypothesis' score is the sum of its tokens' log-probabilities, EOS included, each normalised over
the whole vocabulary (never over the trie's children alone), without a length penalty.

Shapes: B batch, L input length, T decode steps, K beams, J live beams of a step (1 at the first,
else K), C children of a trie node, V vocabulary, M candidates.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from recllm_tasks.errors import UserError
from recllm_tasks.models.network import Transformer
from recllm_tasks.models.trie import Trie

DEAD = -1e7  # the log-probability of a beam that does not exist
_ALIVE = DEAD / 2
_PAD = 0


class Beams(NamedTuple):
    """Hypotheses, best first. A beam that does not exist: tokens 0, log_prob DEAD, row -1."""

    tokens_BxKxT: jax.Array  # int32, EOS included, 0 after it
    log_probs_BxK: jax.Array  # float32
    rows_BxK: jax.Array  # int32 catalog rows; -1 for all without a trie


class _State(NamedTuple):
    """Live hypotheses and, apart from them, finished ones (which take up no live place)."""

    step: jax.Array
    tokens_BxKxT: jax.Array
    log_probs_BxK: jax.Array
    nodes_BxK: jax.Array
    ancestors_BxKxT: jax.Array
    finished: Beams
    caches: tuple


def _pick(x_BxJxA, index_BxK):
    """x[b, index[b, k]] for an array of two or more axes."""
    index = index_BxK.reshape(index_BxK.shape + (1,) * (x_BxJxA.ndim - 2))
    return jnp.take_along_axis(x_BxJxA, index, axis=1)


def _children(trie: Trie, nodes_BxJ, width, positions_BxM):
    """Tokens, nodes and validity [B, J, C] of the children that go on (EOS is not among them)."""
    start_BxJ = trie.child_start[nodes_BxJ]
    edges_BxJxC = start_BxJ[..., None] + jnp.arange(width)
    exists_BxJxC = edges_BxJxC < trie.child_start[nodes_BxJ + 1][..., None]
    edges_BxJxC = jnp.where(exists_BxJxC, edges_BxJxC, 0)
    tokens_BxJxC = trie.child_token[edges_BxJxC]
    children_BxJxC = edges_BxJxC + 1
    valid_BxJxC = exists_BxJxC & (tokens_BxJxC != trie.eos_id)
    if positions_BxM is not None:
        lo, hi = trie.node_lo[children_BxJxC], trie.node_hi[children_BxJxC]
        valid_BxJxC &= _any_between(positions_BxM, lo, hi)
    return tokens_BxJxC, children_BxJxC, valid_BxJxC


def _any_between(positions_BxM, lo, hi):
    """Whether a candidate of the example lies at lo <= position < hi; positions are sorted."""
    search = jax.vmap(functools.partial(jnp.searchsorted, side="left"))
    return search(positions_BxM, lo) < search(positions_BxM, hi)


def _candidate_positions(trie: Trie, rows_BxM):
    """Sorted trie positions; rows outside the catalog (such as -1, padding) match nothing."""
    known = (rows_BxM >= 0) & (rows_BxM < trie.num_items)
    positions = trie.item_positions[jnp.where(known, rows_BxM, 0)]
    return jnp.sort(jnp.where(known, positions, trie.num_items), axis=1)


def _extend(state: _State, logits_BxJxV, trie, positions_BxM, eos_id, width):
    """Chooses the K best continuations and merges what ends now into the finished beams.

    Every hypothesis that EOS ends may become finished, wherever it ranks among the continuations:
    Transformers drops one that is not among the best K of the step, T5X one beyond the best 2K.
    """
    num_live = logits_BxJxV.shape[1]
    live_BxJ = state.log_probs_BxK[:, :num_live]
    nodes_BxJ = state.nodes_BxK[:, :num_live]
    offset_BxJ = live_BxJ - jax.nn.logsumexp(logits_BxJxV, axis=-1)

    ended_BxJ = offset_BxJ + logits_BxJxV[..., eos_id]
    if trie is None:
        rows_BxJ = jnp.full_like(nodes_BxJ, -1)
        ended = live_BxJ > _ALIVE
        scores_BxJxC = offset_BxJ[..., None] + logits_BxJxV
        scores_BxJxC = scores_BxJxC.at[..., jnp.array([_PAD, eos_id])].set(DEAD)
    else:
        rows_BxJ = trie.end_row[nodes_BxJ]
        ended = (live_BxJ > _ALIVE) & (rows_BxJ >= 0)
        if positions_BxM is not None:
            place_BxJ = trie.item_positions[rows_BxJ]
            ended &= _any_between(positions_BxM, place_BxJ, place_BxJ + 1)
        tokens_BxJxC, children_BxJxC, valid_BxJxC = _children(trie, nodes_BxJ, width, positions_BxM)
        logits_BxJxC = jnp.take_along_axis(logits_BxJxV, tokens_BxJxC, axis=2)
        scores_BxJxC = jnp.where(valid_BxJxC, offset_BxJ[..., None] + logits_BxJxC, DEAD)

    finished = _merge(state, ended, ended_BxJ, rows_BxJ, eos_id)

    scores_BxJxC = jnp.where(live_BxJ[..., None] > _ALIVE, scores_BxJxC, DEAD)
    num_beams, num_choices = state.log_probs_BxK.shape[1], scores_BxJxC.shape[2]
    flat = scores_BxJxC.reshape(scores_BxJxC.shape[0], -1)
    missing = max(0, num_beams - flat.shape[1])
    flat = jnp.pad(flat, ((0, 0), (0, missing)), constant_values=DEAD)
    log_probs_BxK, choice_BxK = jax.lax.top_k(flat, num_beams)
    choice_BxK = jnp.minimum(choice_BxK, num_live * num_choices - 1)
    parents_BxK = choice_BxK // num_choices
    if trie is None:
        tokens_BxK, nodes_BxK = choice_BxK % num_choices, state.nodes_BxK
    else:
        tokens_BxK, nodes_BxK = (
            jnp.take_along_axis(x.reshape(x.shape[0], -1), choice_BxK, axis=1)
            for x in (tokens_BxJxC, children_BxJxC)
        )
    return state._replace(
        step=state.step + 1,
        tokens_BxKxT=_pick(state.tokens_BxKxT, parents_BxK).at[:, :, state.step].set(tokens_BxK),
        log_probs_BxK=jnp.maximum(log_probs_BxK, DEAD),
        nodes_BxK=nodes_BxK,
        ancestors_BxKxT=_pick(state.ancestors_BxKxT, parents_BxK),
        finished=finished,
    )


def _merge(state: _State, ended, log_probs_BxJ, rows_BxJ, eos_id):
    """The best K of the finished beams and of the live ones that EOS ends now."""
    num_live = log_probs_BxJ.shape[1]
    tokens = state.tokens_BxKxT[:, :num_live].at[:, :, state.step].set(eos_id)
    new = Beams(
        jnp.where(ended[..., None], tokens, _PAD),
        jnp.where(ended, log_probs_BxJ, DEAD),
        jnp.where(ended, rows_BxJ, -1),
    )
    both = Beams(*(jnp.concatenate(pair, axis=1) for pair in zip(state.finished, new)))
    _, order_BxK = jax.lax.top_k(both.log_probs_BxK, state.log_probs_BxK.shape[1])
    return Beams(*(_pick(x, order_BxK) for x in both))


def _initial_state(model, batch, num_beams, num_steps):
    """Beam 0 is alive at the root, all others are dead."""
    shape = (batch, num_beams)
    dead = jnp.full(shape, DEAD, jnp.float32)
    tokens = jnp.full((*shape, num_steps), _PAD, jnp.int32)
    return _State(
        step=jnp.int32(0),
        tokens_BxKxT=tokens,
        log_probs_BxK=dead.at[:, 0].set(0.0),
        nodes_BxK=jnp.zeros(shape, jnp.int32),
        ancestors_BxKxT=jnp.full_like(tokens, -1),
        finished=Beams(tokens, dead, jnp.full(shape, -1, jnp.int32)),
        caches=model.init_caches(batch, num_steps, num_beams),
    )


@functools.partial(jax.jit, static_argnums=0, static_argnames=("num_beams", "num_steps", "eos_id"))
def _search(model, params, encoder_tokens, trie, candidates, *, num_beams, num_steps, eos_id):
    variables = {"params": params}
    batch = encoder_tokens.shape[0]
    encoded = model.apply(variables, encoder_tokens, enable_dropout=False, method=model.encode)
    cross = model.apply(variables, encoded, method=model.precompute_cross)
    positions = None
    if candidates is not None:
        positions = _candidate_positions(trie, candidates)

    def advance(state, last_BxJ, width):
        num_live = last_BxJ.shape[1]
        own = jnp.broadcast_to(jnp.arange(num_live), last_BxJ.shape)
        ancestors = state.ancestors_BxKxT.at[:, :num_live, state.step].set(own)
        logits, caches = model.apply(
            variables,
            last_BxJ,
            state.step,
            state.caches,
            cross,
            ancestors[:, :num_live],
            encoder_tokens,
            method=model.decode_step,
        )
        state = state._replace(ancestors_BxKxT=ancestors, caches=caches)
        return _extend(state, logits, trie, positions, eos_id, width)

    def unfinished(state):
        # Log-probabilities only fall, so a live beam below all finished ones can be given up.
        better = state.log_probs_BxK[:, 0] > state.finished.log_probs_BxK[:, -1]
        return (state.step < num_steps) & better.any()

    def body(state):
        last = jnp.take(state.tokens_BxKxT, state.step - 1, axis=2)
        return advance(state, last, max(widths[1:], default=1))

    widths = () if trie is None else trie.max_children
    start = _initial_state(model, batch, num_beams, num_steps)
    start = advance(start, jnp.zeros((batch, 1), jnp.int32), max(widths[:1], default=0))
    return jax.lax.while_loop(unfinished, body, start).finished


def beam_search(
    model: Transformer,
    params,
    encoder_tokens_BxL,
    trie: Trie | None = None,
    candidates_BxM=None,
    *,
    num_beams: int = 20,
    max_steps: int | None = None,
    eos_id: int = 1,
) -> Beams:
    """The `num_beams` most probable targets of each input, best first.

    With a trie every beam is an item of the catalog; with fewer items than beams the last beams do
    not exist (see Beams). `candidates_BxM` (int32 catalog rows, -1 as padding) restricts each
    example to its own items. Without a trie the search runs over the whole vocabulary except
    padding, and a hypothesis that has no EOS within `max_steps` tokens is dropped.
    `max_steps` counts EOS; with a trie it is the trie's depth by default and at least that.
    Compiles once for each model, shape, `num_beams` and `max_steps`.
    """
    if trie is None:
        if candidates_BxM is not None:
            raise UserError(
                "Candidates for 'beam_search': got them without a trie, expected both; "
                "give the catalog's trie."
            )
        if max_steps is None:
            raise UserError(
                "Steps for 'beam_search': got None without a trie, expected a number; "
                "give max_steps."
            )
    else:
        max_steps = max_steps or trie.max_depth
        if max_steps < trie.max_depth or eos_id != trie.eos_id:
            raise UserError(
                f"Trie for 'beam_search': got max_steps={max_steps} and eos_id={eos_id}, expected "
                f"at least {trie.max_depth} and {trie.eos_id}; no item may be out of reach."
            )
        max_steps = trie.max_depth
    return _search(
        model,
        params,
        jnp.asarray(encoder_tokens_BxL),
        trie,
        None if candidates_BxM is None else jnp.asarray(candidates_BxM),
        num_beams=num_beams,
        num_steps=max_steps,
        eos_id=eos_id,
    )


@functools.partial(jax.jit, static_argnums=0)
def score(model: Transformer, params, encoder_tokens_BxL, target_tokens_BxT):
    """Float32 [B]: the summed log-probability of each target, EOS included where it is given.

    Targets are padded with 0, which counts nothing.
    """
    inputs_BxT = jnp.pad(target_tokens_BxT, ((0, 0), (1, 0)))[:, :-1]
    logits_BxTxV = model.apply(
        {"params": params}, encoder_tokens_BxL, inputs_BxT, target_tokens_BxT, enable_dropout=False
    )
    chosen_BxT = jnp.take_along_axis(logits_BxTxV, target_tokens_BxT[..., None], axis=2)[..., 0]
    log_probs_BxT = chosen_BxT - jax.nn.logsumexp(logits_BxTxV, axis=-1)
    return jnp.sum(jnp.where(target_tokens_BxT > 0, log_probs_BxT, 0.0), axis=1)
