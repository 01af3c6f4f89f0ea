"""Table, page, plots and card: complete, aligned, self-contained, and never time-free and time-aware rows together."""

import itertools
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.report_fixture import ROWS, curves, parameters, report
from prismrec.evaluation import plots
from prismrec.evaluation.model_card import model_card
from prismrec.evaluation.promotion import verdict
from prismrec.evaluation.report import WIDTH, as_table, report_page
from prismrec.evaluation.rows import TIMES, clear_best, contrasting_rows, number, rows_of, span
from prismrec.pages.svg import ticks

DATA = {
    "events": 99,
    "users": 9,
    "items_with_events": 8,
    "interactions_rows_in": 101,
    "interactions_rows_quarantined": 2,
}
SPLIT = {"events": 90, "users": 7, "items": 6, "min_item_events": 5, "min_user_events": 4}
CONFIGS = {"codebook": {"layers": 3, "codes": 32}, "recommender": {"dim": 64, "num_interests": 4}}
VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Every tag is closed in order; collects tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def bare() -> dict[str, Any]:
    """A run with as little as there can be: no incumbent, slices, curve, health or other rule."""
    figures = report(incumbent=False)
    figures |= {"slices": [], "interest_curve": [], "health": {}, "other_history": None, "left_out": {}}
    figures["promotion"] = verdict(figures, None, parameters())
    return figures


@pytest.mark.parametrize("figures", [report(), bare()], ids=["whole", "bare"])
def test_the_table_fits_a_terminal_and_its_columns_stand_under_each_other(figures: dict[str, Any]) -> None:
    table = as_table(figures)
    assert max(map(len, table.splitlines())) <= WIDTH
    blocks = [block.splitlines() for block in table.split("\n\n") if block.startswith("|")]
    assert len(blocks) == (4 if figures["other_history"] else 2)
    for block in blocks:
        assert len({tuple(i for i, letter in enumerate(line) if letter == "|") for line in block}) == 1


def test_the_table_says_the_rules_before_the_figures_and_the_verdict_after() -> None:
    table, figures = as_table(report()), report()
    wanted = [*(figures["protocol"][rule] for rule in ("ties", "filter", "repeats", "time")), "6,034 targets"]
    wanted += [figures["split_hash"][:12], "| model", "left out: ease:", "## Verdict", "Candidate hymirec: promoted."]
    places = [table.index(text) for text in wanted]
    assert places.index(min(places)) < places.index(table.index("| model"))
    assert max(places[:-4]) < table.index("| model") < places[-3] < places[-2] < places[-1]


def test_the_other_rule_on_histories_has_tables_of_its_own_before_the_verdict() -> None:
    table = as_table(report())
    other = table[table.index("## History kept") : table.index("## Verdict")]
    assert "31 repeated and counted" in other.replace("\n  ", " ")
    assert other.count("| model") == 2
    assert "cov@10" not in other
    assert "## History" not in as_table(bare())


def test_time_free_and_time_aware_rows_stand_in_tables_of_their_own() -> None:
    free, aware = as_table(report()).split("## ")[1:3]
    for name, (_, _, time, *_) in ROWS.items():
        row = rf"^\| (\*\*)?{name.removesuffix('_time_free')}\b"
        block, other = (free, aware) if time == "free" else (aware, free)
        assert re.search(row, block, re.MULTILINE)
        if name.removesuffix("_time_free") not in ("lightweight_encoder", "hymirec", "gemirec"):
            assert not re.search(row, other, re.MULTILINE)


def test_rows_stand_by_the_paired_metric_and_only_a_clear_best_is_bold() -> None:
    figures = report()
    for time in TIMES:
        values = [figures["models"][name]["ndcg@10"] for name in rows_of(figures, time)]
        assert values == sorted(values, reverse=True)
    assert clear_best(figures, rows_of(figures, "aware")) == "hymirec"
    assert clear_best(figures, rows_of(figures, "free")) is None
    assert as_table(figures).count("**") == 2
    assert clear_best(figures, ["hymirec"]) is None


def test_a_multi_target_run_says_what_became_of_repeats() -> None:
    figures = report()
    figures["cases"]["test"] |= {"targets": 9000, "left_out": 17, "repeated": 4}
    line = "- cases, test: 6,034 users, 9,000 targets (targets in the history: 17 left out, 4 repeated and counted)"
    assert line in as_table(figures).splitlines()
    figures["cases"]["test"] |= {"users_left_out": 3, "users_without_history": 1205}
    line += "; users left out: 3 with no other target, 1,205 without a history"
    assert line in " ".join(as_table(figures).split()), "whatever the line breaks"
    assert "1,205 without a history" in report_page(figures, curves())


@pytest.mark.parametrize("figures", [report(), bare()], ids=["whole", "bare"])
def test_the_page_is_well_formed_and_needs_nothing_beside_it(figures: dict[str, Any]) -> None:
    page = report_page(figures, curves())
    checked = Checker(page)
    assert not {"script", "link", "img", "iframe"} & set(checked.tags)
    assert not [value for name, value in checked.attributes if name in ("src", "href")]
    assert "url(" not in page
    assert "@import" not in page
    assert page == report_page(figures, curves())


def test_a_start_that_competes_is_epoch_0_of_its_curve() -> None:
    """It has no loss; where nothing competes, nothing is said of it."""
    found = curves()
    text = Checker(report_page(report(), found)).text
    assert "Epoch 0: as training began" in text
    found["posterior_curve"]["epochs"] = found["posterior_curve"]["epochs"][:1]  # and diverged
    assert "Posterior over interests (GemiRec): loss" in text
    alone = Checker(report_page(report(), found)).text
    assert "Posterior over interests (GemiRec): loss" not in alone
    assert "Posterior over interests (GemiRec): validation NDCG@10" in alone
    assert plots.curves_plot(found).startswith(b"\x89PNG")
    del found["posterior_curve"]
    assert "Epoch 0" not in Checker(report_page(report(), found)).text


def test_every_chart_and_table_can_be_read_without_eyes() -> None:
    page = report_page(report(), curves())
    charts = re.findall(r'<svg role="img".*?</svg>', page)
    assert len(charts) > 20
    assert all(re.search(r"<title>.+</title><desc>.+</desc>", chart) for chart in charts)
    assert page.count('scope="col"') > 20
    assert page.count('scope="row"') > 20


def test_the_page_shows_everything_with_its_interval_and_its_count() -> None:
    figures = report()
    text = Checker(report_page(figures, curves())).text
    for row in figures["models"].values():
        assert row["label"] in text
        assert number(row["ndcg@50"]) in text
    for name in ("hymirec", "sasrec"):
        assert span(tuple(figures["intervals"][name]["hr@10"])) in text
    for part in figures["slices"]:
        assert part["label"] in text
        assert f"{part['cases']:,}" in text
    for wanted in ("Promoted", "History kept", "31 repeated and counted", "left out: ease", "baselines.training.epochs",
                   "perplexity", "effective rank", "ComiRec-SA", "Codebook", "Dictionary",
                   "posterior validation log likelihood -1.6907"):  # fmt: skip
        assert wanted in text


def test_a_run_that_is_not_promoted_says_why_on_top() -> None:
    figures = report(incumbent=False)
    figures["promotion"] = verdict(figures, None, parameters(min_coverage=0.7))
    text = Checker(report_page(figures, {})).text
    assert "Not promoted" in text[: text.index("Accuracy")]
    assert (
        "Guard coverage is broken: coverage@10 0.6880, at least 0.7174, popularity's 0.0580 and 70 % of the rest."
        in text[: text.index("Accuracy")]
    )


def test_foreign_text_is_escaped() -> None:
    figures = report()
    figures["data_set"] = figures["slices"][0]["label"] = figures["models"]["sasrec"]["label"] = "<b onclick=x>&"
    page = report_page(figures, curves())
    assert "<b onclick" not in page
    assert "&lt;b onclick=x&gt;&amp;" in page
    Checker(page)


def test_figures_that_are_missing_are_dashes_and_not_zeros() -> None:
    figures = report()
    for key in [key for key in figures["models"]["popularity"] if key.startswith(("diversity", "new_interest"))]:
        del figures["models"]["popularity"][key]
        del figures["intervals"]["popularity"][key]
    Checker(report_page(figures, curves()))
    assert number(None) == "–"


def test_plots_are_pictures_whose_bytes_repeat() -> None:
    figures = report()
    for draw, given_ in ((plots.accuracy_plot, figures), (plots.slices_plot, figures), (plots.interest_plot, figures),
                         (plots.curves_plot, curves())):  # fmt: skip
        picture = draw(given_)
        assert picture.startswith(b"\x89PNG")
        assert picture == draw(given_)
    assert plots.accuracy_plot(bare()) != plots.accuracy_plot(figures)


def test_plots_of_a_bare_run_can_be_drawn() -> None:
    assert plots.slices_plot(bare()).startswith(b"\x89PNG")
    assert plots.interest_plot(bare()).startswith(b"\x89PNG")
    assert plots.curves_plot({}).startswith(b"\x89PNG")


def test_a_chart_of_contrasts_has_the_best_two_of_every_family() -> None:
    figures = report()
    kept = contrasting_rows(figures, rows_of(figures, "free"))
    assert kept == ["hymirec_time_free", "sasrec", "lightweight_encoder_time_free", "comirec", "decayed_markov"]


def test_the_card_tells_data_licence_split_figures_and_limits() -> None:
    figures = report()
    (bare_slice,) = [part for part in figures["slices"] if part["label"] == "no training event"]
    bare_slice["models"]["hymirec"]["ndcg@10"] = [0.0, 0.0, 0.0]  # of 12 cases
    card = model_card(figures, DATA, SPLIT, CONFIGS)
    for wanted in (
        figures["data_licence"], figures["split_hash"], "of 101 rows 2 were quarantined", "90 events of 7 users",
        "**HyMiRec", "hr@10 .2798 [.271 .289]", "### Time-aware", "weak slice: popularity decile, 1 (0-39 events)",
        "- cold items (at most 5 training events): recall@10 .0336 [.000 .124], 61 cases",
        "without the times of events: ndcg@10 .1731 instead of .1930", "not compared with ease",
        "promotion.metric: ndcg@10", "- codebook: layers 3, codes 32", "- recommender: dim 64, num_interests 4",
        "slices of fewer than 30 cases, which say nothing: 1",
    ):  # fmt: skip
        assert wanted in card
    assert "popularity decile, 10" not in card.split("## Limits")[1]
    assert "no training event" not in card.split("## Limits")[1]
    assert "no test target is one" in model_card(bare(), DATA, SPLIT, CONFIGS)


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3))
def test_ticks_are_few_and_cover_the_values(low: float, width: float) -> None:
    high = low + width
    for whole in (False, True):
        marks = ticks(low, high, whole=whole)
        assert 2 <= len(marks) <= 8
        assert marks[0] <= low + 1e-6 * max(abs(low), abs(high), 1)
        assert marks[-1] >= high - 1e-6 * max(abs(low), abs(high), 1)
        assert all(b > a for a, b in itertools.pairwise(marks))
