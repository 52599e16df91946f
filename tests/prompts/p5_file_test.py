"""P5's template file is read and never run; an error names the line."""

import pytest
import seqio

from recllm_tasks import cli, mixtures
from recllm_tasks.engine import training
from recllm_tasks.errors import UserError
from recllm_tasks.prompts import p5, p5_file
from recllm_tasks.prompts.templates import Items, Template, User


def entry(number, task, source, source_argv, target_argv, target="{}"):
    """A template in the form of P5's file; the words are not P5's."""
    return (
        "template = {}\n'''\nInput template: {{user_id}}\n'''\n"
        f"template['source'] = {source!r}\ntemplate['target'] = {target!r}\n"
        f"template['task'] = {task!r}\ntemplate['source_argc'] = {len(source_argv)}\n"
        f"template['source_argv'] = {source_argv!r}\ntemplate['target_argc'] = 1\n"
        f"template['target_argv'] = {target_argv!r}\ntemplate['id'] = {number!r}\n"
        f"group[{number!r}] = template\n"
    )


HEAD = "'''About'''\nall_tasks = {}\ngroup = {}\n"
TAIL = "all_tasks['group'] = group\n"
NEXT = entry(
    "2-1", "sequential", "user_{} 's past : \n {} \n next ?", ["user_id", "purchase_history"],
    ["item_id"],
)  # fmt: skip
CHOOSE = entry(
    "2-7", "sequential", "After {} for user_{} : one of {}.",
    ["purchase_history", "user_id", "candidates"], ["item_id"],
)  # fmt: skip
STARS = entry(
    "1-5", "rating", "user_{} on item_{} ( {} ) ?", ["user_id", "item_id", "item_title"],
    ["star_rating"],
)  # fmt: skip
LIKE = entry("1-4", "rating", "user_{} and item_{} ?", ["user_id", "item_id"], ["like_dislike"])
LEFT_OUT = (
    entry("5-5", "traditional", "For {} : {}", ["user_desc", "candidates"], ["item_id"])
    + entry("2-11", "sequential", "user_{} {} {}", ["user_id", "purchase_history", "item_id"],
            ["yes_no"])
    + entry("3-1", "explanation", "user_{} : {}", ["user_id", "item_title"], ["explanation"])
    + entry("1-9", "rating", "item_{} in {} ?", ["item_id", "town"], ["star_rating"])
    + entry("2-20", "sequential", "user_{} and {}", ["user_id", "item_id"], ["item_id"])
)  # fmt: skip


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "templates.py"
        path.write_text(text)
        return str(path)

    return write


def test_templates_by_what_they_ask_for(write):
    found = p5_file.read(write(HEAD + NEXT + CHOOSE + STARS + LIKE + LEFT_OUT + TAIL))
    assert found.templates == {
        "retrieval_2_1": Template(
            (User("user_{number}"), "'s past :", p5.history(), "next ?"), (p5.ANSWER,)
        ),
        "ranking_2_7": Template(
            ("After", p5.history(), "for", User("user_{number}"), ": one of", p5.candidates(".")),
            (p5.ANSWER,),
        ),
        "rating_1_5": Template(
            (
                User("user_{number}"),
                "on",
                Items("target", "item_{number}"),
                "(",
                Items("target", "{title}"),
                ") ?",
            ),
            (p5.STARS,),
        ),
        "rating_1_4": found.templates["rating_1_4"],
    }
    assert found.templates["rating_1_4"].answer.answers == ("dislike", "like")
    assert list(found.left_out) == ["5-5", "2-11", "3-1", "1-9", "2-20"]
    for number, reason in (
        ("5-5", "users' names"),
        ("2-11", "yes or no"),
        ("3-1", "explanation"),
        ("1-9", "town"),
        ("2-20", "shows the item that it asks for"),
    ):
        assert reason in found.left_out[number]


HOSTILE = {
    "import os": "line 4: got import os",
    "open('ran', 'w')": r"line 4: got open\('ran', 'w'\)",
    "group['x'] = __import__('os').system('touch ran')": r"line 4: got __import__\('os'\)",
    "group['x'] = [open('ran', 'w')]": r"line 4: got \[open\('ran', 'w'\)\]",
    "group[open('ran', 'w')] = 1": r"line 4: got group\[open\(",
    "template = {'a': open('ran', 'w')}": "line 4: got {'a': open",
    "group.x = 1": "line 4: got group.x",
    "other['a'] = 'b'": r"line 4: got other\['a'\]",
    "def f(x=open('ran', 'w')): pass": "line 4: got def f",
    "x = y = {}": "line 4: got x = y = {}",
    "(" * 5000: "line 4: got ",
    "x = " + "-" * 100_000 + "1": "got ",
    "a = '": "line 4: got ",
    "\0": "got ",
    entry("2-1", "sequential", "{0.__class__} {}", ["user_id", "purchase_history"], ["item_id"]): (
        "line 8: got source '{0.__class__} {}'"
    ),
    entry("2-1", "sequential", "{{}} {}", ["user_id"], ["item_id"]): "no other braces",
    entry("2-1", "sequential", "{} {", ["user_id"], ["item_id"]): "no other braces",
    entry("2-1", "sequential", "{}{}", ["user_id", "candidates"], ["item_id"]): "one {} per word",
    entry("2-1", "sequential", "a{}", ["purchase_history"], ["item_id"]): "got 'a' directly before",
    entry("2-1", "sequential", "{}", ["user_id", "candidates"], ["item_id"]): "a {} for each of",
    entry("2-1", "sequential", "x" * 3000, [], ["item_id"]): "at most 2,000 characters",
    entry("../x", "sequential", "{}", ["user_id"], ["item_id"]): r"got id '\.\./x'",
    NEXT + NEXT: "got id '2-1', expected an id .* that no other template has",
    "template = {}\ntemplate['source'] = 'a'": "got target 'None'",
    "group['self'] = group\ngroup['source'] = group": "got source",
    LEFT_OUT: "got none that can be used",
}


@pytest.mark.parametrize(("text", "message"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_a_hostile_file_is_refused_and_not_run(text, message, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        p5_file.read(write(HEAD + text + "\n"))
    assert "use P5's src" in str(error.value)
    assert len(str(error.value)) < 600
    assert not (tmp_path / "ran").exists()


def test_a_file_that_is_too_large_missing_or_not_text(write, tmp_path):
    with pytest.raises(UserError, match="expected at most 1,048,576"):
        p5_file.read(write("#" * (1 << 20) + "\n"))
    with pytest.raises(UserError, match="No such file"):
        p5_file.read(tmp_path / "absent.py")
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        p5_file.read(tmp_path / "bytes.py")


@pytest.fixture
def _restore_figure_1():
    yield
    mixtures.register_p5("gift_cards", {})
    seqio.set_tfds_data_dir_override(None)


@pytest.mark.usefixtures("_restore_figure_1")
def test_the_commands_read_it(write, small_data_dir, capsys):
    path = write(HEAD + NEXT + CHOOSE + STARS + LIKE + LEFT_OUT + TAIL)
    command = ["show", "gift_cards_p5", "--data_dir", str(small_data_dir), "--num", "40"]
    assert cli.main([*command, "--p5_templates", path]) == 0
    shown = capsys.readouterr()
    assert "one of" in shown.out
    assert "'s past :" in shown.out
    assert "star rating do you think" not in shown.out
    assert "left out 5-5: needs users' names" in shown.err
    mixture = seqio.MixtureRegistry.get("gift_cards_p5")
    assert training.choose_validation(mixture) == ("gift_cards_p5_retrieval_2_1", "ndcg@10")
    names = {task.name for task in mixture.tasks}
    assert names == {
        f"gift_cards_p5_{name}"
        for name in ("retrieval_2_1", "ranking_2_7", "rating_1_5", "rating_1_4")
    }
    assert cli.main([*command, "--p5_templates", write("import os")]) == 2
    assert "line 1: got import os" in capsys.readouterr().err
    mixtures.register_p5("gift_cards", {})
    assert cli.main(command) == 0
    assert "star rating do you think" in capsys.readouterr().out
    assert "gift_cards_p5_ranking_2_7" not in seqio.TaskRegistry.names()
