"""Beam search over a catalog's trie or over the whole vocabulary.

A hypothesis' score is the sum of its tokens' log-probabilities, EOS included, without a length
penalty. Each is normalised over the whole vocabulary, as in teacher forcing. With a prior, λ times
the log of the prior's mass at its prefix is added: for an item, λ log p(item).

Shapes: B batch, L input length, T decode steps, K beams, J live beams of a step (as many as can
exist, K at most), C children of a trie node, V vocabulary, M candidates or excluded items, P tokens
that a target begins with.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from recllm_tasks.errors import UserError
from recllm_tasks.models.item_mask import ItemMask
from recllm_tasks.models.network import Transformer
from recllm_tasks.models.prior import Prior
from recllm_tasks.models.trie import Trie

Array = jax.Array | np.ndarray

DEAD = -1e7  # the log-probability of a beam that does not exist
_ALIVE = DEAD / 2
_PAD = 0

# The first steps are unrolled, each only as wide as needed; the later ones share a loop.
_UNROLLED = 8


class Beams(NamedTuple):
    """Hypotheses, best first. A beam that does not exist: tokens 0, log_prob DEAD, row -1.

    With a prior, the order is that of the sums with it; `log_probs` are the model's alone.
    """

    tokens_BxKxT: Array  # int32, EOS included, 0 after it
    log_probs_BxK: Array  # float32
    rows_BxK: Array  # int32 catalog rows; -1 for all without a trie


class _State(NamedTuple):
    """Live hypotheses, and separately the finished ones, which take no place among the live."""

    step: jax.Array
    tokens_BxKxT: jax.Array
    log_probs_BxK: jax.Array  # the model's
    scores_BxK: jax.Array  # what they are ranked by, falling
    nodes_BxK: jax.Array
    ancestors_BxKxT: jax.Array
    finished: Beams
    finished_scores_BxK: jax.Array
    caches: tuple


def _pick(x_BxJxA, index_BxK):
    """x[b, index[b, k]] for an array of two or more axes."""
    index = index_BxK.reshape(index_BxK.shape + (1,) * (x_BxJxA.ndim - 2))
    return jnp.take_along_axis(x_BxJxA, index, axis=1)


class _Allowed(NamedTuple):
    """The items allowed for each example: sorted trie positions, or a mask; None allows all.

    Positions equal to the number of items are padding. No other position is repeated. At most one
    of the three is given.
    """

    candidates_BxM: jax.Array | None
    excluded_BxM: jax.Array | None
    mask: ItemMask | None

    @classmethod
    def of(cls, trie: Trie, candidates_BxM, excluded_BxM, mask: ItemMask | None):
        """From catalog rows; rows outside the catalog (such as -1, padding) match nothing."""
        excluded, candidates = _positions(trie, excluded_BxM), _positions(trie, candidates_BxM)
        if candidates is not None and mask is not None:
            inside = mask.count(candidates, jnp.minimum(candidates + 1, trie.num_items)) > 0
            candidates = jnp.sort(jnp.where(inside, candidates, trie.num_items), axis=1)
            mask = None
        if candidates is not None and excluded is not None:
            out = _between(excluded, candidates, candidates + 1) > 0
            candidates = jnp.sort(jnp.where(out, trie.num_items, candidates), axis=1)
            excluded = None
        return cls(candidates, excluded, mask)

    def count(self, lo, hi):
        """How many items at lo <= position < hi are allowed; lo and hi are [B, ...], lo < hi."""
        if self.candidates_BxM is not None:
            return _between(self.candidates_BxM, lo, hi)
        if self.excluded_BxM is not None:
            return hi - lo - _between(self.excluded_BxM, lo, hi)
        if self.mask is not None:
            return self.mask.count(lo, hi)
        return hi - lo

    def count_below(self, trie: Trie, nodes_BxJ, width, lo, hi):
        """As `count`, of the items below the first `width` children of each node: [B, J, C]."""
        listed = self.excluded_BxM if self.candidates_BxM is None else self.candidates_BxM
        if listed is None or width <= listed.shape[1]:
            return self.count(lo, hi)
        # Fewer items than children: each item finds its child.
        ones = jnp.ones(listed.shape, jnp.int32)
        found = trie.sums_of_children(nodes_BxJ, width, listed, ones)
        return found if self.candidates_BxM is not None else hi - lo - found


def _positions(trie: Trie, rows_BxM):
    if rows_BxM is None:
        return None
    known = (rows_BxM >= 0) & (rows_BxM < trie.num_items)
    positions = trie.item_positions[jnp.where(known, rows_BxM, 0)]
    positions = jnp.sort(jnp.where(known, positions, trie.num_items), axis=1)
    again = jnp.pad(positions[:, 1:] == positions[:, :-1], ((0, 0), (1, 0)))
    return jnp.sort(jnp.where(again, trie.num_items, positions), axis=1)


def _between(positions_BxM, lo, hi):
    """How many of an example's sorted positions lie at lo <= position < hi."""
    search = jax.vmap(functools.partial(jnp.searchsorted, side="left"))
    return search(positions_BxM, hi) - search(positions_BxM, lo)


class _Choices(NamedTuple):
    """Continuations of the live beams: C of each, and whether EOS may follow."""

    tokens_BxJxC: jax.Array | None  # None: token c of the vocabulary
    nodes_BxJxC: jax.Array | None
    valid_BxJxC: jax.Array  # EOS and padding are not among them
    ends_BxJ: jax.Array
    rows_BxJ: jax.Array  # of the item that EOS ends
    # λ log P of each, None without a prior.
    going_prior_BxJxC: jax.Array | None = None
    ending_prior_BxJ: jax.Array | None = None


def _choices_in_trie(
    trie: Trie, nodes_BxJ, width, allowed: _Allowed, prior: Prior | None, prior_weight
) -> _Choices:
    start_BxJ = trie.child_start[nodes_BxJ]
    edges_BxJxC = start_BxJ[..., None] + jnp.arange(width)
    exists_BxJxC = edges_BxJxC < trie.child_start[nodes_BxJ + 1][..., None]
    edges_BxJxC = jnp.where(exists_BxJxC, edges_BxJxC, 0)
    tokens_BxJxC = trie.child_token[edges_BxJxC]
    children_BxJxC = edges_BxJxC + 1
    valid_BxJxC = exists_BxJxC & (tokens_BxJxC != trie.eos_id)
    below = trie.node_lo[children_BxJxC], trie.node_hi[children_BxJxC]
    count_BxJxC = allowed.count_below(trie, nodes_BxJ, width, *below)
    valid_BxJxC &= count_BxJxC > 0
    rows_BxJ = trie.end_row[nodes_BxJ]
    place_BxJ = trie.item_positions[rows_BxJ]
    own = place_BxJ, place_BxJ + 1
    is_allowed_BxJ = allowed.count(*own)
    ends_BxJ = (rows_BxJ >= 0) & (is_allowed_BxJ > 0)
    choices = _Choices(tokens_BxJxC, children_BxJxC, valid_BxJxC, ends_BxJ, rows_BxJ)
    if prior is None:
        return choices
    return choices._replace(
        going_prior_BxJxC=prior_weight
        * prior.log_mass_below(trie, nodes_BxJ, width, *below, count_BxJxC),
        ending_prior_BxJ=prior_weight * prior.log_mass(*own, is_allowed_BxJ),
    )


def _choices_in_vocabulary(nodes_BxJ, vocab_size, eos_id) -> _Choices:
    valid_V = jnp.ones(vocab_size, bool).at[jnp.array([_PAD, eos_id])].set(False)
    valid_BxJxV = jnp.broadcast_to(valid_V, (*nodes_BxJ.shape, vocab_size))
    return _Choices(
        None, None, valid_BxJxV, jnp.ones(nodes_BxJ.shape, bool), jnp.full_like(nodes_BxJ, -1)
    )


def _log_probs(logits_BxJxV, choices: _Choices, eos_id):
    """Log-probabilities [B, J, C] of the continuations and [B, J] of EOS."""
    ending_BxJ, going_BxJxC = jnp.take(logits_BxJxV, eos_id, axis=2), logits_BxJxV
    if choices.tokens_BxJxC is not None:
        going_BxJxC = jnp.take_along_axis(logits_BxJxV, choices.tokens_BxJxC, axis=2)
    total_BxJ = jax.nn.logsumexp(logits_BxJxV, axis=-1)
    return going_BxJxC - total_BxJ[..., None], ending_BxJ - total_BxJ


def _extend(state: _State, choices: _Choices, going_BxJxC, ending_BxJ, eos_id):
    """Chooses the K best continuations and merges what ends now into the finished beams.

    In the trie, every hypothesis that EOS ends may become finished, whatever its rank. In the whole
    vocabulary it must be among the step's best 2K, as in T5X; transformers requires the best K.
    """
    num_live = ending_BxJ.shape[1]
    live_BxJ = state.log_probs_BxK[:, :num_live]
    alive_BxJ = live_BxJ > _ALIVE
    valid_BxJxC = choices.valid_BxJxC & alive_BxJ[..., None]
    log_probs_BxJxC = live_BxJ[..., None] + going_BxJxC
    scores_BxJxC = _plus(log_probs_BxJxC, choices.going_prior_BxJxC)
    num_beams, num_choices = state.log_probs_BxK.shape[1], scores_BxJxC.shape[2]
    is_free = choices.tokens_BxJxC is None
    num_kept = 2 * num_beams if is_free else num_beams
    log_probs, scores = (
        jnp.where(valid_BxJxC, x, DEAD).reshape(x.shape[0], -1)
        for x in (log_probs_BxJxC, scores_BxJxC)
    )
    missing = max(0, num_kept - scores.shape[1])
    log_probs, scores = (
        jnp.pad(x, ((0, 0), (0, missing)), constant_values=DEAD) for x in (log_probs, scores)
    )
    kept_BxK, choice_BxK = jax.lax.top_k(scores, num_kept)

    ends_BxJ, ended_BxJ = choices.ends_BxJ & alive_BxJ, live_BxJ + ending_BxJ
    if is_free:
        every = jnp.concatenate([kept_BxK, jnp.where(ends_BxJ, ended_BxJ, DEAD)], axis=1)
        ends_BxJ &= ended_BxJ >= jax.lax.top_k(every, num_kept)[0][:, -1:]
    state = _merge(state, ends_BxJ, ended_BxJ, choices, eos_id)

    scores_BxK, choice_BxK = kept_BxK[:, :num_beams], choice_BxK[:, :num_beams]
    log_probs_BxK = jnp.take_along_axis(log_probs, choice_BxK, axis=1)
    choice_BxK = jnp.minimum(choice_BxK, num_live * num_choices - 1)
    parents_BxK = choice_BxK // num_choices
    if choices.tokens_BxJxC is None or choices.nodes_BxJxC is None:
        tokens_BxK, nodes_BxK = choice_BxK % num_choices, state.nodes_BxK
    else:
        tokens_BxK, nodes_BxK = (
            jnp.take_along_axis(x.reshape(x.shape[0], -1), choice_BxK, axis=1)
            for x in (choices.tokens_BxJxC, choices.nodes_BxJxC)
        )
    return state._replace(
        step=state.step + 1,
        tokens_BxKxT=_pick(state.tokens_BxKxT, parents_BxK).at[:, :, state.step].set(tokens_BxK),
        log_probs_BxK=jnp.maximum(log_probs_BxK, DEAD),
        scores_BxK=jnp.maximum(scores_BxK, DEAD),
        nodes_BxK=nodes_BxK,
        ancestors_BxKxT=_pick(state.ancestors_BxKxT, parents_BxK),
    )


def _plus(log_probs, prior):
    return log_probs if prior is None else log_probs + prior


def _merge(state: _State, ended_BxJ, log_probs_BxJ, choices: _Choices, eos_id) -> _State:
    """Keeps the best K of the finished beams and of the live ones that EOS ends now."""
    num_live = log_probs_BxJ.shape[1]
    tokens = state.tokens_BxKxT[:, :num_live].at[:, :, state.step].set(eos_id)
    new = Beams(
        jnp.where(ended_BxJ[..., None], tokens, _PAD),
        jnp.where(ended_BxJ, log_probs_BxJ, DEAD),
        jnp.where(ended_BxJ, choices.rows_BxJ, -1),
    )
    scores_BxJ = jnp.where(ended_BxJ, _plus(log_probs_BxJ, choices.ending_prior_BxJ), DEAD)
    both = Beams(*(jnp.concatenate(pair, axis=1) for pair in zip(state.finished, new)))
    scores = jnp.concatenate([state.finished_scores_BxK, scores_BxJ], axis=1)
    scores_BxK, order_BxK = jax.lax.top_k(scores, state.log_probs_BxK.shape[1])
    finished = Beams(*(_pick(x, order_BxK) for x in both))
    return state._replace(finished=finished, finished_scores_BxK=scores_BxK)


def _initial_state(model, batch, num_beams, num_steps):
    """Beam 0 is alive at the root, all others are dead."""
    shape = (batch, num_beams)
    dead = jnp.full(shape, DEAD, jnp.float32)
    tokens = jnp.full((*shape, num_steps), _PAD, jnp.int32)
    return _State(
        step=jnp.int32(0),
        tokens_BxKxT=tokens,
        log_probs_BxK=dead.at[:, 0].set(0.0),
        scores_BxK=dead.at[:, 0].set(0.0),
        nodes_BxK=jnp.zeros(shape, jnp.int32),
        ancestors_BxKxT=jnp.full_like(tokens, -1),
        finished=Beams(tokens, dead, jnp.full(shape, -1, jnp.int32)),
        finished_scores_BxK=dead,
        caches=model.init_caches(batch, num_steps, num_beams),
    )


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("num_beams", "num_steps", "eos_id", "scores_eos")
)
def _search(
    model,
    params,
    encoder_tokens,
    trie,
    candidates,
    excluded,
    mask,
    beginning,
    prior,
    prior_weight,
    *,
    num_beams,
    num_steps,
    eos_id,
    scores_eos,
):
    variables = {"params": params}
    batch = encoder_tokens.shape[0]
    encoded = model.apply(variables, encoder_tokens, enable_dropout=False, method=model.encode)
    cross = model.apply(variables, encoded, method=model.precompute_cross)
    allowed = _Allowed(None, None, None)
    if trie is not None:
        allowed = _Allowed.of(trie, candidates, excluded, mask)
    read = None
    if beginning is not None:
        read = model.apply(variables, beginning, cross, encoder_tokens, method=model.read_beginning)

    def run_decoder(state, num_live):
        """The state after the decoder has read the last token of each live beam, and the logits."""
        if isinstance(state.step, int) and state.step == 0:
            last_BxJ = jnp.zeros((batch, 1), jnp.int32) if beginning is None else beginning[:, -1:]
        else:
            last_BxJ = jnp.take(state.tokens_BxKxT, state.step - 1, axis=2)[:, :num_live]
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
            beginning,
            read,
            method=model.decode_step,
        )
        return state._replace(ancestors_BxKxT=ancestors, caches=caches), logits

    def advance(state, num_live, width):
        nodes_BxJ = state.nodes_BxK[:, :num_live]
        if trie is not None:
            choices = _choices_in_trie(trie, nodes_BxJ, width, allowed, prior, prior_weight)
            # Nothing but EOS can follow a trie's deepest nodes.
            if not scores_eos and isinstance(state.step, int) and state.step == num_steps - 1:
                going = jnp.zeros(choices.valid_BxJxC.shape, jnp.float32)
                return _extend(state, choices, going, jnp.zeros(nodes_BxJ.shape), eos_id)
        state, logits = run_decoder(state, num_live)
        if trie is None:
            choices = _choices_in_vocabulary(nodes_BxJ, logits.shape[-1], eos_id)
        going, ending = _log_probs(logits, choices, eos_id)
        if not scores_eos:
            ending = jnp.zeros_like(ending)
        return _extend(state, choices, going, ending, eos_id)

    def unfinished(state):
        # Scores only fall, so a live beam below all finished ones can be dropped.
        better = state.scores_BxK[:, 0] > state.finished_scores_BxK[:, -1]
        return (state.step < num_steps) & better.any()

    state = _initial_state(model, batch, num_beams, num_steps)._replace(step=0)
    widths = () if trie is None else trie.max_children
    num_live = 1
    for step in range(min(num_steps, _UNROLLED if trie is not None else 1)):
        width = widths[step] if trie is not None else None
        state = advance(state._replace(step=step), num_live, width)
        num_live = num_beams if width is None else min(num_beams, num_live * width)
    if trie is not None and num_steps <= _UNROLLED:
        return state.finished
    state = state._replace(step=jnp.int32(state.step))
    rest = max(widths[_UNROLLED:], default=1)
    return jax.lax.while_loop(unfinished, lambda s: advance(s, num_beams, rest), state).finished


def beam_search(
    model: Transformer,
    params,
    encoder_tokens_BxL,
    trie: Trie | None = None,
    candidates_BxM=None,
    excluded_BxM=None,
    beginning_BxP=None,
    *,
    num_beams: int = 20,
    max_steps: int | None = None,
    eos_id: int = 1,
    scores_eos: bool = True,
    prior: Prior | None = None,
    prior_weight: float = 0.0,
    allowed: ItemMask | None = None,
) -> Beams:
    """The `num_beams` most probable targets of each input, best first.

    With a trie, every beam is an item of the catalog. With fewer items than beams, the last beams
    do not exist (see Beams). `candidates_BxM` (int32 catalog rows, -1 as padding) restricts each
    example to its own items; `excluded_BxM` (same form) removes items. Without a trie, the search
    runs over the whole vocabulary except padding, and a hypothesis without EOS within `max_steps`
    tokens is dropped. `max_steps` counts EOS; with a trie it is by default the trie's depth, and
    may not be less. `beginning_BxP` (int32 tokens, right-aligned, 0 before them) is what each
    target begins with: the decoder reads it, and the hypotheses are what may follow, scored given
    it.

    `scores_eos` False leaves EOS out of the scores: an item is as probable as its tokens.

    With a `prior`, made for the same trie, candidates and excluded items, beams are ranked by
    log p(model) + `prior_weight` log P(prior), λ not negative, at every prefix.

    `allowed` [B, W] restricts each example to a list of any length. The beams are those of a search
    over a trie of the allowed items alone: what is not allowed takes no place in it. So they are
    the exact best of the allowed items if no level has more than `num_beams` prefixes of them, and
    otherwise as near to it as a search without a mask. Rows to exclude are taken out of the mask
    with `ItemMask.without`.

    Compiles once for each model, shape, `num_beams` and `max_steps`.
    """
    if trie is None:
        if any(given is not None for given in (candidates_BxM, excluded_BxM, prior, allowed)):
            raise UserError(
                "Candidates for 'beam_search': got candidates, a list or a prior without a trie, "
                "expected both; pass the catalog's trie"
            )
        if max_steps is None:
            raise UserError(
                "Steps for 'beam_search': got None without a trie, expected a number; "
                "pass max_steps"
            )
    else:
        max_steps = max_steps or trie.max_depth
        if max_steps < trie.max_depth or eos_id != trie.eos_id:
            raise UserError(
                f"Trie for 'beam_search': got max_steps={max_steps} and eos_id={eos_id}, expected "
                f"at least {trie.max_depth} and {trie.eos_id}; pass those, so that every item can "
                "be reached"
            )
        max_steps = trie.max_depth
        if allowed is not None and excluded_BxM is not None:
            raise ValueError(
                "excluded_BxM for 'beam_search': got rows and a mask, expected one of them; take "
                "the rows out with ItemMask.without"
            )
    return _search(
        model,
        params,
        jnp.asarray(encoder_tokens_BxL),
        trie,
        None if candidates_BxM is None else jnp.asarray(candidates_BxM),
        None if excluded_BxM is None else jnp.asarray(excluded_BxM),
        allowed,
        None if beginning_BxP is None else jnp.asarray(beginning_BxP),
        prior,
        jnp.float32(prior_weight),
        num_beams=num_beams,
        num_steps=max_steps,
        eos_id=eos_id,
        scores_eos=scores_eos,
    )
