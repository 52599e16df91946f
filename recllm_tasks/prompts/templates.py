"""The wording of every task, as data: paper Table 11, and Figure 3 for item embedding.

A template is a sequence of parts, joined by single spaces: plain words and slots. Words may hold
`{noun}`, `{verb}` and `{verb_past}`, which a `Wording` fills in ("Amazon products", "buy",
"purchased"). A slot writes catalog items, or one of a few fixed answers. The same template makes
the text that people read and the tokens that the model reads (`assembly.py`).
"""

import dataclasses
import string

ITEM = "Item ID: {short_id}, Title: {title}"
LISTED_ITEM = ITEM + ";"
SHORT_ID = "{short_id}"
MASKED_ITEM = "[masked item];"
# Our choice: a side of the rating prompt that holds no item says so; the paper shows no such case.
NO_ITEM = "none;"


@dataclasses.dataclass(frozen=True)
class Items:
    """Writes the items of an example's feature `field`: catalog rows, int32 scalar or [n].

    Attributes:
      field: feature that holds the rows, oldest first.
      form: how one item is written; its placeholders are columns of the catalog, and `number`,
        from 1, in the catalog's order.
      last_form: how the last item is written, where that differs.
      where: feature, bool [n]; only the rows where it is true are written.
      masked: feature, bool [n]; where it is true, `mask` is written in the item's place.
      empty: what is written when there is no row.
      mask: what is written in the place of a masked item.
      mark: feature, int32 [n]; an item is written in `form` where it is 0, else in the form of
        `marks` with that number, counted from 1.
      marks: such forms.
    """

    field: str
    form: str = LISTED_ITEM
    last_form: str | None = None
    where: str | None = None
    masked: str | None = None
    empty: str = ""
    mask: str = MASKED_ITEM
    mark: str | None = None
    marks: tuple[str, ...] = ()

    @property
    def forms(self) -> tuple[str, ...]:
        """All ways in which an item is written: `form`, `last_form` if any, and `marks`."""
        last_form = () if self.last_form is None else (self.last_form,)
        return (self.form, *last_form, *self.marks)


@dataclasses.dataclass(frozen=True)
class Choice:
    """Writes one of `answers`, the one whose index the int32 scalar feature `field` holds."""

    field: str
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Varied:
    """Writes the item of `field` (int32 scalar) in the form whose index `variant` (int32) holds."""

    field: str
    variant: str
    forms: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class User:
    """Writes the user of the int32 scalar feature `field`, as `form` with its number in it."""

    form: str
    field: str = "user_row"


Slot = Items | Choice | Varied | User
Part = str | Slot


@dataclasses.dataclass(frozen=True)
class Template:
    """What the model reads (`inputs`) and what it must write (`targets`).

    Attributes:
      inputs: read by the encoder.
      targets: written by the decoder.
      beginning: what stands before `targets` in the decoder. The model learns to write it too; to
        be asked for an answer, it is given it. Such a sequence may go on: EOS is not learned, and
        no part of an answer's probability.
      among: feature of the items that the answer is one of, although `inputs` do not list them:
        `candidates`, or None.
    """

    inputs: tuple[Part, ...]
    targets: tuple[Part, ...]
    beginning: tuple[Part, ...] = ()
    among: str | None = None

    def worded(self, wording: "Wording") -> "Template":
        """The template in the words of a domain."""
        return Template(
            inputs=tuple(wording.fill(part) for part in self.inputs),
            targets=tuple(wording.fill(part) for part in self.targets),
            beginning=tuple(wording.fill(part) for part in self.beginning),
            among=self.among,
        )

    @property
    def answer(self) -> Items | Choice | None:
        """The slot that is the whole target, or None where the target is not one answer."""
        slot = self.targets[0] if len(self.targets) == 1 else None
        if isinstance(slot, Choice) or (isinstance(slot, Items) and slot.where is None):
            return slot
        return None

    @property
    def offers_candidates(self) -> bool:
        """Whether the answer is one of the example's candidates (ranking)."""
        return self.among == "candidates" or any(
            isinstance(p, Items) and p.field == "candidates" for p in self.inputs
        )


@dataclasses.dataclass(frozen=True)
class Wording:
    """A domain's own words: what people do there (`buy`, `purchased`), and with what (`noun`)."""

    noun: str = "Amazon products"
    verb: str = "buy"
    verb_past: str = "purchased"

    def fill(self, part: Part) -> Part:
        if not isinstance(part, str):
            return part
        return part.format(noun=self.noun, verb=self.verb, verb_past=self.verb_past)


_HISTORY = (
    "A user has {verb_past} the following {noun} "
    "(arranged in chronological order, from earliest to most recent):"
)

RETRIEVAL = Template(
    inputs=(_HISTORY, Items("history"), "What would the user {verb} next?"),
    targets=(Items("target", SHORT_ID),),
)

RANKING = Template(
    inputs=(
        _HISTORY,
        Items("history"),
        "Which of the following candidate items would you recommend the user to {verb} next? "
        "Candidate items are:",
        Items("candidates", SHORT_ID + ",", last_form=SHORT_ID + "."),
    ),
    targets=(Items("target", SHORT_ID),),
)

RATING = Template(
    inputs=(
        "A user likes the following {noun}:",
        Items("history", where="liked", empty=NO_ITEM),
        "The user dislikes the following {noun}:",
        Items("history", where="disliked", empty=NO_ITEM),
        "Predict whether the user would like the following item. Answer yes or no.",
        Items("target", ITEM),
    ),
    targets=(Choice("target_liked", ("no", "yes")),),
)

MASKED_ITEM_MODELING = Template(
    inputs=(
        _HISTORY,
        Items("history", masked="masked"),
        "What are the masked items, in chronological order?",
    ),
    targets=(Items("history", where="masked"),),
)

# The text whose spans are corrupted; inputs and targets consist of its tokens (masking.py).
MASKED_LANGUAGE_MODELING = Template(inputs=(Items("history"),), targets=())

PERSONALIZED_RANKING = Template(
    inputs=(
        _HISTORY,
        Items("history"),
        "Which of the following two items would the user {verb} next?",
        Items("pair"),
    ),
    targets=(Items("target", ITEM),),
)

# Our choice: prompts of ids alone have no wording but a mark that tells a task from the others,
# each one piece of T5's vocabulary and of a dataset's own. The history alone asks for the next
# item; with masks in it, for what they hide. A window of 20 items takes 21 tokens with atomic ids,
# 81 with semantic ones, so training sees many times more examples than with titles.
MASK = "*"
_IDS = Items("history", SHORT_ID)
_NEXT_ID = (Items("target", SHORT_ID),)

IDS_RETRIEVAL = Template(inputs=(_IDS,), targets=_NEXT_ID)

# Our choice: the decoder reads the history, as SASRec's does (Kang and McAuley 2018), and the
# encoder nothing. One pass over a sequence then learns from every item of it, where prompts that
# end at each of them would read it once an item.
IDS_SEQUENCE = Template(inputs=(), beginning=(_IDS,), targets=_NEXT_ID)

# The same question with fewer answers. Nothing is learned for it.
IDS_SEQUENCE_RANKING = dataclasses.replace(IDS_SEQUENCE, among="candidates")

IDS_RANKING = Template(inputs=(_IDS, "of", Items("candidates", SHORT_ID)), targets=_NEXT_ID)

IDS_RATING = Template(
    inputs=(
        "like",
        Items("history", SHORT_ID, where="liked"),
        "dislike",
        Items("history", SHORT_ID, where="disliked"),
        "rate",
        Items("target", SHORT_ID),
    ),
    targets=(Choice("target_liked", ("no", "yes")),),
)

# Our choice: each answer stands after its item, so that one pass over a sequence learns from every
# rating of it, and the item that is asked about is the last that the decoder reads. The beginning
# sets the task apart from retrieval, which shows no ratings.
IDS_SEQUENCE_RATING = Template(
    inputs=(),
    beginning=(
        "rate",
        Items("history", SHORT_ID, mark="mark", marks=(f"{SHORT_ID} no", f"{SHORT_ID} yes")),
        Items("target", SHORT_ID),
    ),
    targets=(Choice("target_liked", ("no", "yes")),),
)

IDS_MASKED_ITEM_MODELING = Template(
    inputs=(Items("history", SHORT_ID, masked="masked", mask=MASK),),
    targets=(Items("history", SHORT_ID, where="masked"),),
)

IDS_PERSONALIZED_RANKING = Template(inputs=(_IDS, "or", Items("pair", SHORT_ID)), targets=_NEXT_ID)

# Catalog columns that item embedding asks for (paper, Appendix D; its Figure 3 has the wording).
ITEM_ATTRIBUTES = ("title", "categories", "brand", "price", "description")

ITEM_EMBEDDING = Template(
    inputs=(
        Varied(
            "item", "attribute", tuple(f"What's the {a} of {SHORT_ID}?" for a in ITEM_ATTRIBUTES)
        ),
    ),
    targets=(Varied("item", "attribute", tuple(f"{{{a}}}" for a in ITEM_ATTRIBUTES)),),
)


_TEMPLATES = (
    RETRIEVAL,
    RANKING,
    RATING,
    MASKED_ITEM_MODELING,
    PERSONALIZED_RANKING,
    ITEM_EMBEDDING,
    IDS_RETRIEVAL,
    IDS_SEQUENCE,
    IDS_RANKING,
    IDS_RATING,
    IDS_SEQUENCE_RATING,
    IDS_MASKED_ITEM_MODELING,
    IDS_PERSONALIZED_RANKING,
)


def fixed_phrases(wording: Wording) -> list[str]:
    """All fixed words in any prompt or answer, in the words of a domain.

    "Item ID: {short_id}, Title: {title};" has three: " Item ID:", ", Title:" and ";". A phrase that
    starts a word has a space before it.
    """
    parts = [
        part for t in _TEMPLATES for part in (*t.worded(wording).inputs, *t.beginning, *t.targets)
    ]
    texts = [MASKED_ITEM, NO_ITEM, MASK]
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, Choice):
            texts += part.answers
        elif isinstance(part, (Varied, Items)):
            texts += part.forms
    literals = [literal for text in texts for literal, *_ in string.Formatter().parse(f" {text}")]
    return [phrase for phrase in dict.fromkeys(map(str.rstrip, literals)) if phrase]
