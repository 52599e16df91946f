"""The whole report: who is better, what stands beside what, and the three forms of it."""

import csv
import html.parser
import io
import json
import re
import shutil

import numpy as np
import pytest

from recllm_tasks.errors import UserError
from recllm_tasks.report import markdown, page, report, runs, spreadsheet
from recllm_tasks.report.breakdowns import groups_of
from recllm_tasks.report.conditions import Prepared
from recllm_tasks.report.recommended import deciles, describe
from recllm_tasks.report.user_results import RankedUsers
from recllm_tasks.runs import results

FINGERPRINT = "ab" * 32
COUNTS = {FINGERPRINT: Prepared(np.arange(1, 31), "published")}


def table(made: report.Report, title: str):
    (found,) = (table for table in made.tables if table.title.startswith(title))
    return found


def cells(made: report.Report, title: str, row: str):
    (found,) = (r for r in table(made, title).rows if r.name == row)
    return found.cells


@pytest.fixture
def three_rows(make_run, draw_ranks):
    """A baseline, a language model that is better, and one that does as the baseline."""
    base = draw_ranks(400, 0.2)
    better = np.where(np.isinf(base) & (np.arange(400) % 4 == 0), 1, base)
    return [
        make_run("sasrec", ranks=base),
        make_run("better", ranks=better, model="tiny", mixture="toys_reat", step=100),
        make_run("equal", ranks=base, model="tiny", mixture="toys_ut", step=100),
    ]


def test_a_planted_difference_is_found_and_equal_rows_differ_not(three_rows):
    made = report.build(runs.load(three_rows), {})
    baseline = cells(made, "Table 1", "SASRec")
    better = cells(made, "Table 1", "ReAT (tiny, 100 steps)")
    equal = cells(made, "Table 1", "UT (tiny, 100 steps)")
    assert [cell.mark for cell in baseline] == ["◆"] * 4
    assert [cell.mark for cell in better] == ["▲"] * 4
    assert [cell.mark for cell in equal] == [""] * 4
    assert equal[0].p == "1.000"
    assert all(cell.strong for cell in better)
    assert [cell.paper for cell in better] == ["0.0390", "0.0461", "0.0558", "0.0776"]
    assert [cell.paper for cell in baseline] == ["0.0306", "0.0374", "0.0463", "0.0675"]
    difference = cells(made, "Retrieval: difference", "ReAT (tiny, 100 steps)")
    assert difference[2].text == "better"
    assert float(difference[0].interval[0]) > 0
    assert cells(made, "Retrieval: difference", "UT (tiny, 100 steps)")[0].text == "0.0000"
    assert {row.name for row in table(made, "Table 4").rows} == {
        "best baseline",
        "+MIM – ReAT (tiny, 100 steps)",
    }


def test_rows_whose_training_its_budget_ended_are_named(make_run, draw_ranks):
    def row(name, *validations):
        curve = [{"epoch": i + 1, "validation": value} for i, value in enumerate(validations)]
        settings = {"curve": curve, "patience": 2, "epochs": 9}
        return make_run(name, ranks=draw_ranks(50, 0.5), settings=settings)

    rows = [row("caser", 0.1, 0.3, 0.2), row("hgn", 0.3, 0.1, 0.2), row("gru4rec", 0.1)]
    made = report.build(runs.load([*rows, make_run("ease", ranks=draw_ranks(50, 0.5))]), {})
    (note,) = (note for note in table(made, "Table 1").notes if "its budget" in note)
    assert note.endswith("(epochs in brackets): Caser (3), GRU4Rec (1).")


def test_rows_are_compared_with_the_best_baseline(make_run, draw_ranks):
    ranks = draw_ranks(400, 0.5)
    worse = np.where(np.arange(400) % 4 == 0, np.inf, ranks)
    folders = [make_run("caser", ranks=worse), make_run("hgn", ranks=ranks)]
    made = report.build(runs.load(folders), {})
    best, other = (cells(made, "Table 1", name) for name in ("HGN", "Caser"))
    assert [cell.mark for cell in best] == ["◆"] * 4
    assert [cell.mark for cell in other] == ["▼"] * 4
    for cell in (*best, *other):
        low, high = map(float, cell.interval)
        assert low < float(cell.text) < high
        assert 0.02 < high - low < 0.12, "about four standard errors of 400 users"
    assert table(made, "Retrieval: difference").columns[0] == "NDCG@10 minus HGN"


def test_the_report_is_the_same_each_time(three_rows):
    first, again = (report.build(runs.load(three_rows), COUNTS) for _ in range(2))
    assert page.render(first) == page.render(again)


def test_auc_is_per_cent_and_tested_by_paired_bootstrap(make_run):
    rng = np.random.default_rng(0)
    liked = rng.random(300) < 0.7
    noise = rng.normal(size=300)
    folders = [
        make_run("history", liked=liked, scores=noise),
        make_run("m", liked=liked, scores=noise + 2 * liked, model="tiny", mixture="toys_rpat"),
    ]
    made = report.build(runs.load(folders), {})
    (cell,) = cells(made, "Table 3", "RpAT (tiny)")
    assert float(cell.text) == pytest.approx(
        100 * runs.load(folders)[1].metrics["toys_rating"]["auc"], abs=0.005
    )
    assert (cell.mark, cell.paper) == ("▲", "71.16")
    assert cells(made, "Table 3", "History")[0].paper == "66.59"


def test_rows_of_other_data_or_users_stand_in_other_tables(make_run, draw_ranks):
    told = {"model": "tiny", "mixture": "toys_reat"}
    folders = [
        make_run("one", ranks=draw_ranks(60, 0.5), **told),
        make_run("other_data", ranks=draw_ranks(60, 0.5), **told, fingerprint="cd" * 32),
        make_run("fewer", ranks=draw_ranks(50, 0.5), **told),
        make_run("validation", ranks=draw_ranks(60, 0.5), **told, split="validation"),
        make_run("shuffled", ranks=draw_ranks(60, 0.5), **told, fingerprint="ef" * 32),
    ]
    text = (folders[4] / "results.json").read_text().replace("published", "shuffled")
    (folders[4] / "results.json").write_text(text)
    made = report.build(runs.load(folders), {})
    title = "Retrieval (seen items left out)"
    tables = [table for table in made.tables if table.title.removeprefix("Table 1. ") == title]
    assert [len(table.rows) for table in tables] == [1] * 5
    notes = [table.notes[0] for table in tables]
    assert len(set(notes)) == 5
    ties = [table for table in made.tables if "both orders" in table.title]
    assert len(ties) == 3, "each published condition of the split beside the shuffled one"
    assert list(ties[0].columns) == ["published", "shuffled"] * 2


def test_id_schemes_of_one_dataset_stand_in_one_table(make_run, draw_ranks):
    """Those of other splits do not; results from before there was a split fingerprint may."""
    of, told = "ab" * 32, {"model": "tiny", "mixture": "toys_ut_at"}
    inner = {"popularity": {"toys_retrieval": {"hr@10": 0.1}}}
    folders = [
        make_run("old", ranks=draw_ranks(60, 0.5), **told, baselines=inner),
        *(
            make_run(
                ids,
                ranks=draw_ranks(60, 0.5, seed),
                **told,
                ids=ids,
                fingerprint=f"c{seed}" * 32,
                split_fingerprint=of,
                baselines=inner,
            )
            for seed, ids in enumerate(("atomic", "semantic"))
        ),
        make_run("other", ranks=draw_ranks(60, 0.5), **told, split_fingerprint="ef" * 32),
    ]
    made = report.build(runs.load(folders), COUNTS)
    first, second = (table for table in made.tables if table.title.startswith("Table 1"))
    assert [row.name for row in first.rows] == [
        "popularity",
        "UT+AT (tiny)",
        "UT+AT (tiny, atomic ids)",
        "UT+AT (tiny, semantic ids)",
        "Δ (%), best of ours over best baseline",
    ]
    assert [row.name for row in second.rows] == ["UT+AT (tiny)"]
    lists = "Retrieval: what is recommended, seen items left out"
    assert len([t for t in made.tables if t.title == lists]) == 2
    (popularity,) = [t for t in made.tables if "by popularity" in t.title and "share" in t.title]
    assert len(popularity.rows) == 2 + 3, "one catalog serves all schemes"
    shown = [[cell.text for cell in row.cells[4:7]] for row in table(made, "Fingerprints").rows]
    assert shown[1] == ["atomic", "c0" * 8, "ab" * 8]


def test_users_of_one_condition_must_be_the_same(make_run, draw_ranks):
    import pyarrow as pa
    import pyarrow.parquet as pq

    one, two = (make_run(name, ranks=draw_ranks(20, 0.5)) for name in ("hgn", "caser"))
    path = two / "per_user" / "test" / "toys_retrieval.parquet"
    found = pq.read_table(path)
    targets = pa.array(np.full(20, 3), pa.int32())
    pq.write_table(found.set_column(found.column_names.index("target"), "target", targets), path)
    with pytest.raises(UserError, match="'target' in"):
        report.build(runs.load([one, two]), {})


def test_a_row_of_the_catalog_that_is_not_there_is_reported(make_run, draw_ranks):
    folder = make_run("hgn", ranks=draw_ranks(40, 0.5), items=[[30]] * 40)
    with pytest.raises(UserError, match=r"'items' in .* catalog row 30"):
        report.build(runs.load([folder]), COUNTS)


def test_without_users_or_catalog_there_is_no_more_than_the_metrics(three_rows, tmp_path):
    alone = tmp_path / "tpu.json"
    alone.write_text((three_rows[1] / "results.json").read_text())
    made = report.build(runs.load([alone]), {})
    (cell, *_) = cells(made, "Table 1", "ReAT (tiny, 100 steps)")
    assert (cell.interval, cell.mark, cell.paper) == (None, "", "0.0390")
    assert {section.title for section in made.sections} == {
        "Retrieval",
        "Ablations",
        "Fingerprints",
    }
    with_users = report.build(runs.load(three_rows), {})
    titles = {table.title for table in with_users.tables}
    assert not any("popularity" in title for title in titles)
    assert any("length of history" in title for title in titles)
    catalog_too = report.build(runs.load(three_rows), COUNTS)
    assert any("popularity of the target" in table.title for table in catalog_too.tables)


def test_evaluations_of_one_run_are_rows_that_say_how_they_differ(make_run, draw_ranks):
    told = {"model": "tiny", "mixture": "toys_reat", "step": 100}
    told["seen"] = "keep"
    folder = make_run("run", ranks=draw_ranks(60, 0.5), **told, decoding={"num_beams": 20})
    free = make_run(
        "free",
        ranks=draw_ranks(60, 0.4, seed=1),
        **told,
        decoding={"num_beams": 50, "constrained": False},
    )
    for source in (folder, free):
        found = results.read(source / "results.json")
        found.save(folder)
    shutil.copytree(free / "per_user", folder / "per_user", dirs_exist_ok=True)
    shutil.rmtree(free)
    assert [path.name for path in results.find(folder.parent)] == [
        "test-beam20.json",
        "test-beam50-unconstrained.json",
    ]
    latest = (folder / "results.json").read_text()
    assert (folder / "results" / f"{found.name}.json").read_text() == latest
    loaded = runs.load([folder])
    assert all(run.per_user_file("toys_retrieval").is_file() for run in loaded)
    assert loaded[0].name == "run, test-beam20"
    made = report.build(loaded, {})
    assert cells(made, "Table 1", "ReAT (tiny, 100 steps)")[0].interval
    assert cells(made, "Table 1", "ReAT (tiny, 100 steps, 50 beams, free text)")[0].interval
    assert len(table(made, "Fingerprints").rows) == 2


def test_a_model_with_the_prior_is_another_method_than_the_model_alone(make_run, draw_ranks):
    told = {"model": "tiny", "mixture": "toys_reat", "step": 100}
    ranks = draw_ranks(60, 0.5)
    folders = [
        make_run("alone", ranks=ranks, **told, decoding={"num_beams": 20}),
        make_run("both", ranks=ranks, **told, decoding={"num_beams": 20, "prior_weight": 1.5}),
    ]
    made = report.build(runs.load(folders), {})
    (alone, *_), (both, *_) = (
        cells(made, "Table 1", name)
        for name in ("ReAT (tiny, 100 steps)", "reat + item_to_item (tiny, 100 steps, prior 1.5)")
    )
    assert (alone.paper, both.paper) == ("0.0390", "")
    (ablations,) = (section for section in made.sections if section.title == "Ablations")
    assert "item_to_item" not in str(ablations)


class _Texts(html.parser.HTMLParser):
    """Tags and text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.rows, self.in_row = [], "", [], False

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append("")
            self.in_row = True

    def handle_endtag(self, tag):
        self.in_row = self.in_row and tag != "tr"

    def handle_data(self, data):
        self.text += data
        if self.in_row:
            self.rows[-1] += data + " "


def test_without_a_row_of_the_paper_there_is_nothing_about_the_paper(make_run, draw_ranks):
    told = {"model": "tiny", "mixture": "toys_ids_sequence", "step": 100}
    ours = make_run("ours", ranks=draw_ranks(60, 0.3), **told)
    folders = [ours, make_run("markov", ranks=draw_ranks(60, 0.2), model="markov")]
    made = report.build(runs.load(folders), COUNTS)
    text = page.render(made) + markdown.render(made)
    assert "Δ (%)" in text
    for word in ("paper", "§", "Table 1"):
        assert word not in text.replace("svg .paper", "").replace("small.paper", ""), word
    sasrec = make_run("sasrec", ranks=draw_ranks(60, 0.2))
    assert "as printed" in page.render(report.build(runs.load([sasrec, ours]), {}))


def test_statistics_are_explained_where_they_are_shown(three_rows, tmp_path):
    def text(folders):
        (section,) = (
            found
            for found in report.build(runs.load(folders), {}).sections
            if found.title == "Retrieval"
        )
        return " ".join(section.text)

    for word in ("HR@10 is the share", "bootstrap interval", "adjusted after Holm"):
        assert word in text(three_rows), word
    alone = tmp_path / "tpu.json"
    alone.write_text((three_rows[1] / "results.json").read_text())
    assert "HR@10 is the share" in text([alone])
    assert "bootstrap" not in text([alone])
    assert "Holm" not in text(three_rows[:1])


def test_charts_are_as_wide_as_the_window(three_rows):
    made = report.build(runs.load(three_rows), COUNTS)
    seen = _Texts()
    seen.feed(page.render(made))
    charts = [a for tag, a in seen.tags if tag == "svg" and a.get("aria-hidden")]
    assert {a["width"] for a in charts} == {"100%", "28"}, "charts, and the marks of legends"
    assert not any("viewbox" in a for a in charts)
    across = [
        a[k] for tag, a in seen.tags if tag in ("line", "text") for k in ("x", "x1") if k in a
    ]
    assert len(across) > 50
    assert all(re.fullmatch(r"\d+\.\d\d%", x) and float(x[:-1]) <= 100 for x in across)


HOSTILE = "<script>alert(1)</script>\"'&|`*x*[a](b)"


def test_nothing_in_a_run_becomes_markup(make_run, draw_ranks, change):
    folder = make_run("x", ranks=draw_ranks(30, 0.5), task="toys_retrieval")
    change(
        folder, model=HOSTILE, settings={"a" + HOSTILE: HOSTILE}, seed=3, mixture="toys_" + HOSTILE
    )
    formula = change(make_run("y", ranks=draw_ranks(30, 0.4)), model="=cmd()")
    made = report.build(runs.load([folder, formula]), COUNTS)
    seen = _Texts()
    seen.feed(page.render(made))
    assert HOSTILE in seen.text
    assert {tag for tag, _ in seen.tags} & {"script", "img", "link", "iframe", "object"} == set()
    assert not any(
        key.startswith("on") or key in ("src", "srcset") for _, a in seen.tags for key in a
    )
    assert all(a["href"].startswith("#") for _, a in seen.tags if "href" in a)
    assert "<script" not in markdown.render(made).replace("\\<script", "")
    lines = list(csv.reader(io.StringIO(spreadsheet.render(made))))
    assert not any(cell.startswith("=") for line in lines for cell in line)


def numbers(text: str) -> list[str]:
    return re.findall(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e-\d+)?", text)


def test_the_three_forms_hold_the_same_numbers(three_rows):
    made = report.build(runs.load(three_rows), COUNTS)
    seen = _Texts()
    seen.feed(page.render(made))
    rows = [row for row in seen.rows if any(c.isdigit() for c in row)]
    lines = [line for line in markdown.render(made).splitlines() if line.startswith("| ")]
    of_page = sorted(n for row in rows for n in numbers(row))
    of_markdown = sorted(n for line in lines for n in numbers(line))
    # The page repeats a dataset's and a group's name above its columns; Markdown does not.
    assert len(of_page) > 300
    assert set(of_markdown) == set(of_page)
    written = {
        (line["table"], line["row"], line["column"], line["group"]): line
        for line in csv.DictReader(io.StringIO(spreadsheet.render(made)))
    }
    for found in made.tables:
        for row in found.rows:
            for place, cell in enumerate(row.cells):
                if cell.text:
                    name = spreadsheet.harmless(row.name)
                    key = (found.title, name, found.columns[place], found.group_of(place))
                    assert written[key]["value"].removeprefix("'") == cell.text
                    assert (written[key]["low"], written[key]["high"]) == (
                        cell.interval or ("", "")
                    )
                    assert written[key]["paper"] == cell.paper


def test_lists_are_described_by_hand():
    items = np.array([0, 1, 1, -1, 2, 2, 2, 29], np.int32)
    found = RankedUsers(
        users=["a", "b"],
        targets=np.array([0, 1]),
        history=np.array([3, 4]),
        groups=np.array([-1, -1]),
        ranks=np.array([1.0, np.inf]),
        items=items,
        starts=np.array([0, 4, 8]),
    )
    lists = describe(found, np.arange(1, 31))
    assert lists.invalid == pytest.approx(1 / 8)
    assert lists.duplicates == pytest.approx(3 / 7)
    assert lists.distinct == 4
    assert lists.mean_popularity == pytest.approx((1 + 2 + 2 + 3 + 3 + 3 + 30) / 7)
    np.testing.assert_allclose(lists.by_decile, [6 / 7, *[0] * 8, 1 / 7])
    np.testing.assert_array_equal(deciles(np.array([5, 5, 1, 9])), [2, 5, 0, 7])


def test_groups_are_of_equal_size_and_none_is_empty():
    group, names = groups_of(np.arange(100))
    assert np.bincount(group).tolist() == [20] * 5
    assert names == ["0–19", "20–39", "40–59", "60–79", "80–99"]
    group, names = groups_of(np.array([4] * 90 + [5] * 9 + [7]))
    assert names == ["4", "5–7"]
    assert np.bincount(group).tolist() == [90, 10]


@pytest.mark.parametrize("fingerprint", ["cd" * 32, FINGERPRINT])
def test_rows_of_two_protocols_never_stand_in_one_table(make_run, draw_ranks, fingerprint):
    """Not even if somebody gave their files the same fingerprint."""
    last = make_run("last", ranks=draw_ranks(60, 0.3), model="markov")
    dated = make_run(
        "dated",
        ranks=draw_ranks(60, 0.2),
        model="markov",
        protocol="time",
        fingerprint=fingerprint,
        split_fingerprint=fingerprint,
    )
    made = report.build(runs.load([last, dated]), {})
    found = [table for table in made.tables if table.title.startswith("Retrieval (")]
    assert ["Protocol: time" in table.title for table in found] == [False, True]
    for table, protocol in zip(found, ("leave_one_out", "time")):
        assert [len(row.cells) for row in table.rows] == [4]
        assert f"test, {protocol}, 60 users" in table.notes[0]


def test_the_papers_numbers_do_not_stand_beside_another_protocol(make_run, draw_ranks):
    dated = make_run("sasrec", ranks=draw_ranks(60, 0.2), protocol="time-repeats")
    made = report.build(runs.load([dated]), {})
    assert {cell.paper for cell in cells(made, "Retrieval (", "SASRec")} == {""}


def test_a_protocol_that_is_not_the_datasets_is_reported(make_run, draw_ranks):
    dated = make_run("dated", ranks=draw_ranks(60, 0.2), protocol="time")
    with pytest.raises(UserError, match=r"'protocol' in .*got 'time', expected 'leave_one_out'"):
        report.build(runs.load([dated]), COUNTS)
    made_up = make_run("made_up", ranks=draw_ranks(60, 0.2), protocol="by_day")
    with pytest.raises(UserError, match=r"'protocol' in .*got 'by_day', expected leave_one_out or"):
        runs.load([made_up])


def test_two_datasets_of_two_protocols_share_no_table(make_run, draw_ranks):
    last = make_run("last", ranks=draw_ranks(60, 0.3))
    dated = make_run("dated", ranks=draw_ranks(60, 0.2), protocol="time", fingerprint="ef" * 32)
    path = dated / "results.json"
    path.write_text(path.read_text().replace('"toys"', '"beauty"'))
    made = report.build(runs.load([last, dated]), {})
    found = [table for table in made.tables if table.title.startswith("Retrieval (")]
    assert [len(table.groups) for table in found] == [1, 1]


def test_rows_under_two_rules_for_seen_items_never_stand_in_one_table(make_run, draw_ranks):
    told = {"model": "tiny", "mixture": "toys_reat"}
    rules = {"leave_out": "seen items left out", "keep": "seen items kept"}
    folders = [
        make_run(f"{name}_{seen}", ranks=draw_ranks(60, 0.3), seen=seen, **of)
        for seen in rules
        for name, of in (("tiny", told), ("markov", {"model": "markov"}))
    ]
    made = report.build(runs.load(folders), COUNTS)
    for title in ("Table 1", "Table 4", "Retrieval: what", "Retrieval: difference", "Retrieval by"):
        found = [table for table in made.tables if table.title.startswith(title)]
        assert len(found) >= 2, title
        for one in found:
            (rule,) = [text for text in rules.values() if text in one.title]
            assert rule in one.notes[0]
            assert not any(text in one.notes[0] for text in rules.values() if text != rule)
            names = [row.name for row in one.rows]
            assert len(names) == len(set(names)), "one row of each method"
    for form in (page.render(made), markdown.render(made), spreadsheet.render(made)):
        assert all(text in form for text in rules.values())
    shown = {row.name: row.cells[2].text for row in table(made, "Fingerprints").rows}
    assert shown["markov_keep"] == "seen items kept"
    costs = [t for t in made.tables if "both orders" in t.title]
    assert costs == []


def test_the_rule_says_nothing_about_given_items(make_run, draw_ranks):
    told = {"task": "toys_ranking", "ranks": draw_ranks(60, 0.3)}
    folders = [
        make_run("markov", seen="leave_out", **told),
        make_run("hgn", seen="keep", **told),
        make_run("old", seen=None, **told),
    ]
    made = report.build(runs.load(folders), {})
    found = table(made, "Ranking (")
    assert found.title == "Ranking (items given)"
    assert len(found.rows) == 3


def test_the_papers_numbers_are_footnoted_where_seen_items_are_left_out(make_run, draw_ranks):
    for seen, has_note in (("leave_out", True), ("keep", False)):
        folder = make_run(f"sasrec_{seen}", ranks=draw_ranks(60, 0.2), model="sasrec", seen=seen)
        made = report.build(runs.load([folder]), {})
        assert cells(made, "Table 1", "SASRec")[0].paper == "0.0306"
        notes = table(made, "Table 1").notes
        assert any("paper's numbers keep seen items" in note for note in notes) == has_note


def test_baselines_beside_a_model_of_an_older_version_stand_under_their_own_rules(
    make_run, draw_ranks
):
    inner = {
        name: {"toys_retrieval": {"hr@10": 0.1}}
        for name in ("popularity", "popularity_unseen", "item_to_item")
    }
    told = {"model": "tiny", "mixture": "toys_reat", "baselines": inner}
    folder = make_run("old", ranks=draw_ranks(60, 0.3), seen="keep", decoding={}, **told)
    content = json.loads((folder / "results.json").read_text())
    del content["seen"]
    content["decoding"] = {"num_beams": 20, "exclude_history": False}
    (folder / "results.json").write_text(json.dumps(content))
    made = report.build(runs.load([folder]), {})
    found = [t for t in made.tables if t.title.removeprefix("Table 1. ").startswith("Retrieval (")]
    assert [(t.title.rpartition("(")[2], [row.name for row in t.rows][:2]) for t in found] == [
        ("seen items left out)", ["item_to_item", "popularity"]),
        ("seen items kept)", ["popularity", "ReAT (tiny)"]),
    ]


GROUPS = ["co_occurs"] * 30 + ["no_co_occurrence"] * 20 + ["new"] * 10


def test_results_by_what_the_history_can_tell(make_run):
    ranks = np.array([1.0] * 30 + [np.inf] * 20 + [3.0] * 10)
    named = make_run("markov", ranks=ranks, groups=GROUPS)
    older = make_run("hgn", ranks=ranks)
    made = report.build(runs.load([older, named]), {})
    found = table(made, "Retrieval by co-occurrence")
    assert list(found.columns) == ["together in train", "never together", "not in train"]
    assert [cell.text for cell in found.rows[0].cells] == ["30", "20", "10"]
    for row in found.rows[1:]:
        assert [cell.text for cell in row.cells] == ["1.0000", "0.0000", "0.5000"]
    assert len(found.rows) == 3
    with pytest.raises(UserError, match="'group' in"):
        report.build(runs.load([named, make_run("ease", ranks=ranks, groups=GROUPS[::-1])]), {})


def test_one_group_alone_or_none_is_no_breakdown(make_run, draw_ranks):
    for name, groups in (("hgn", None), ("ease", ["co_occurs"] * 20)):
        made = report.build(
            runs.load([make_run(name, ranks=draw_ranks(20, 0.5), groups=groups)]), {}
        )
        assert not [t for t in made.tables if "co-occurrence" in t.title]
