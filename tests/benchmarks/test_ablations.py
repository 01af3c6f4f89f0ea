"""Ablations: cells are valid, parts are shared, figures belong to their users, what stands is not run again."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from benchmarks.ablations import make, make_gemirec, report, run
from benchmarks.ablations.cells import (
    CELLS,
    ENVIRONMENTS,
    GEMIREC,
    REFERENCE,
    REFERENCES,
    STAGE_6,
    STAGES,
    Cell,
    Lists,
    Times,
    settings_of,
    why_not,
)
from benchmarks.ablations.make import Data, Once, Parts, pack, unpack
from benchmarks.ablations.make_gemirec import GemiRecParts, HistoryInterests, ShownInterests, Summed
from benchmarks.peers.cells import read_cell, write_cell
from kedro.config import OmegaConfigLoader

from models.test_gemirec import CELLS as ITEM_CELLS
from models.test_gemirec import LENGTHS, RECOMMENDABLE, asked, gemirec
from prismrec.data.histories import Histories
from prismrec.data.schema import ITEM_MAP, conform
from prismrec.data.splits import leave_one_out
from prismrec.models.events import EventTable
from prismrec.models.interest_dictionary import InterestDictionary, InterestDictionaryConfig
from prismrec.models.rankers import Ranker
from prismrec.parameters.codebook import CodebookParameters
from prismrec.parameters.interest_dictionary import InterestDictionaryParameters
from prismrec.settings import CONFIG_LOADER_ARGS
from training.small import NUM_ITEMS, Walks, encoder_parameters, random_lengths, recommender_parameters, training

SEED = 3
CONF = Path(run.PROJECT) / "conf"
PARTS = ("encoder", "codebook", "recommender")
OWN_PARTS = ("dictionary", "posterior", "retrieval")  # of GemiRec


def configured(environment: str) -> dict[str, Any]:
    loader = OmegaConfigLoader(str(CONF), env=ENVIRONMENTS[environment], **CONFIG_LOADER_ARGS)
    parameters: dict[str, Any] = loader["parameters"]
    return parameters


@pytest.mark.parametrize("environment", list(ENVIRONMENTS))
def test_every_cell_is_valid_and_another_than_the_reference(environment: str) -> None:
    parameters = configured(environment)
    before = repr(parameters)
    seen = []
    for cell in CELLS.values():
        settings = settings_of(cell, environment, parameters, SEED)
        if why_not(cell, environment, parameters, SEED) is None:
            seen.append(settings)
    assert all(seen.count(settings) == 1 for settings in seen)
    assert len(seen) >= 45
    assert repr(parameters) == before, "the environment's own parameters stay"


def test_a_cell_changes_what_it_names_and_all_cells_share_epochs_and_seed() -> None:
    parameters = configured("ml1m")
    reference = settings_of(CELLS[REFERENCE], "ml1m", parameters, SEED)
    halved = settings_of(CELLS["recent_half"], "ml1m", parameters, SEED)
    assert halved["llm_recommender"].pop("recent_length") * 2 == reference["llm_recommender"].pop("recent_length")
    assert halved == reference
    assert [reference[stage]["seed"] for stage in STAGES] == [SEED] * 3
    assert reference["llm_recommender"]["training"]["epochs"] < parameters["llm_recommender"]["training"]["epochs"]
    odd = Cell("odd", "", {"codebook.codes": Times(0.5)})
    assert settings_of(odd, "demo", configured("demo"), SEED)["codebook"]["codes"] == 128


def test_cells_that_say_nothing_are_left_out_with_a_word() -> None:
    parameters = configured("demo")
    assert why_not(CELLS[REFERENCE], "demo", parameters, SEED) is None
    assert why_not(CELLS["k_4"], "demo", parameters, SEED) == "it is the reference here"
    assert why_not(CELLS["packaged_full"], "demo", parameters, SEED) is None
    assert "one core" in (why_not(CELLS["packaged_full"], "ml1m", configured("ml1m"), SEED) or "")


@pytest.mark.parametrize("environment", list(ENVIRONMENTS))
def test_gemirecs_cells_rest_on_the_reference_and_are_measured_by_its_cells(environment: str) -> None:
    parameters = configured(environment)
    shared = settings_of(CELLS[REFERENCE], environment, parameters, SEED)
    reference = settings_of(CELLS[REFERENCES[GEMIREC]], environment, parameters, SEED)
    for cell in (cell for cell in CELLS.values() if cell.model == GEMIREC):
        settings = settings_of(cell, environment, parameters, SEED)
        assert {key: settings[key] for key in shared} == shared
        assert settings["measured_by"] == reference[STAGE_6]["dictionary"]
        assert settings[STAGE_6]["seed"] == SEED
    small = settings_of(CELLS["gemirec_small_cells"], environment, parameters, SEED)
    assert small[STAGE_6]["dictionary"].pop("items_per_cell") * 2 == reference[STAGE_6]["dictionary"]["items_per_cell"]
    teacher = settings_of(CELLS["gemirec_mixture_teacher"], environment, parameters, SEED)[STAGE_6]["retrieval"]
    assert (teacher["variant"], teacher["posterior_share"]) == ("mixture", 0.0)
    if environment == "ml1m":
        assert reference[STAGE_6]["posterior"]["training"]["epochs"] == 3


def test_words_do_not_change_the_version_of_the_code() -> None:
    plain = 'def f(x):\n    """Doubles."""\n    return x * 2\n'
    assert make._without_words(plain) == make._without_words('def f(x):  # why\n    """Twice."""\n\n    return x * 2\n')
    assert make._without_words(plain) != make._without_words(plain.replace("2", "3"))


def test_packed_figures_come_back() -> None:
    values = np.random.default_rng(0).random(100)
    np.testing.assert_allclose(unpack(pack(values)), values, atol=1e-7)


class Counting(Ranker):
    """Scores that say whom they are of."""

    name = "counting"

    def __init__(self) -> None:
        self.calls = 0

    def scores(self, events: EventTable, users_B: torch.Tensor, ends_B: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return (users_B[:, None] + torch.zeros(1, 4)).float()


def test_a_ranker_scores_the_same_users_once() -> None:
    events = EventTable(np.array([0, 1, 2]), np.array([0, 1]), None)
    ranker = Counting()
    once = Once(ranker)
    users, other, ends = torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([1, 1])
    once.scores(events, users, ends).fill_(-torch.inf)  # what is done to one row's scores stays there
    assert once.scores(events, users, ends)[:, 0].tolist() == [0, 1]
    assert ranker.calls == 1
    assert once.scores(events, other, ends)[:, 0].tolist() == [1, 1]
    assert once.scores(events.without_times(np.array([True, True])), other, ends)[:, 0].tolist() == [1, 1]
    assert ranker.calls == 3


def world() -> Data:
    """Walks as what stages 1 and 2 make."""
    walks = Walks(random_lengths(40, longest=14))
    bounds = list(zip(walks.offsets[:-1], walks.offsets[1:], strict=True))
    histories = Histories.from_lists([walks.items[a:b] for a, b in bounds], [walks.times[a:b] for a, b in bounds])
    items = {
        "item_index": range(NUM_ITEMS), "item_id": [f"i{i}" for i in range(NUM_ITEMS)], "title": ["t"] * NUM_ITEMS,
        "text": [""] * NUM_ITEMS, "categories": [["c"]] * NUM_ITEMS, "active": [True] * NUM_ITEMS,
    }  # fmt: skip
    return Data(histories, leave_one_out(histories), conform(pl.DataFrame(items), ITEM_MAP), "split", "filtered", 10)


def small_settings(timed: bool = True, **changes: Any) -> dict[str, Any]:
    short = training(epochs=1)
    codebook = {"layers": 2, "codes": 4, "iterations": 3, "assignment": "cosine", "coefficients": "item"}
    llm = {"training": short, "transitions": {"decays": (0.0,), "ridge": 1.0, "kept": 8, "max_items": 100}, **changes}
    return {
        "lightweight_encoder": encoder_parameters(training=short).model_dump(mode="json"),
        "codebook": CodebookParameters(seed=0, **codebook).model_dump(mode="json"),
        "llm_recommender": recommender_parameters(**llm).model_dump(mode="json"),
        "timed": timed,
    }


def gemirec_settings(
    lists: Lists | None = None, summed: bool = False, items_per_cell: int = 3, variant: str = "in_cell"
) -> dict[str, Any]:
    dictionary = {
        "levels": 2, "items_per_cell": items_per_cell, "codes_per_level": None, "code_dim": 4, "hidden": 8,
        "commitment": 0.25, "warm_up_steps": 20, "steps": 30, "batch_size": 32, "learning_rate": 0.01,
    }  # fmt: skip
    short = training(epochs=1)
    posterior = {
        "hidden": 8, "layers": 1, "heads": 2, "dropout": 0.1, "prior": True, "horizon": 1, "training": short,
    }  # fmt: skip
    retrieval = {
        "variant": variant, "posterior_share": 0.5, "merge": "likelihood", "hidden": 8, "dropout": 0.1,
        "training": short,
    }  # fmt: skip
    stage = InterestDictionaryParameters(
        seed=0, num_interests=4, max_cells=100, beam=4, refresh=False, refresh_share=1.0, dictionary=dictionary,
        posterior=posterior, retrieval=retrieval,
    ).model_dump(mode="json")  # fmt: skip
    measured_by = {**stage["dictionary"], "items_per_cell": 3}
    more = {"history": "filtered", "summed": summed, "lists": (lists or Lists())._asdict(), "measured_by": measured_by}
    return {**small_settings(), STAGE_6: stage, **more}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the parts in the order in which they are made; texts are random."""
    names: list[str] = []

    def embed(item_map: pl.DataFrame, previous: None, parameters: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"embeddings": np.random.default_rng(0).standard_normal((len(item_map), 12)).astype(np.float32)}, {}

    def noted(name: str, node: Any) -> Any:
        def work(*arguments: Any) -> Any:
            names.append(name)
            return node(*arguments)

        return work

    monkeypatch.setattr(make, "embed_texts", embed)
    for module, name, node in (
        (make, "encoder", "train_encoder"),
        (make, "codebook", "fit_codebook"),
        (make, "recommender", "train_recommender"),
        (make_gemirec, "dictionary", "fit_dictionary"),
        (make_gemirec, "posterior", "train_posterior"),
        (make_gemirec, "retrieval", "train_retrieval"),
    ):
        monkeypatch.setattr(module, node, noted(name, getattr(module, node)))
    return names


def test_cells_share_parts_and_compare_user_by_user(tmp_path: Path, trained: list[str]) -> None:
    data, folder, results = world(), tmp_path / "parts", tmp_path / "results" / "ablations"

    def cell(name: str, settings: dict[str, Any], code: str = "v1", seed: int = 0) -> dict[str, Any]:
        trained.clear()
        figures = make.measure_cell(Parts(folder, data, settings, code))
        found = {"cell": name, "seed": seed, "split_hash": "split", "settings": settings, "code": code, **figures}
        write_cell(results / "demo" / f"{name}-{seed}.json", found)
        return found

    reference = cell(REFERENCE, small_settings())
    assert trained == list(PARTS)
    merged = cell("no_transitions", small_settings(transitions={"decays": (), "ridge": 1.0, "kept": 8, "max_items": 9}))
    assert trained == [], "the merge alone has changed"
    assert merged["rows"]["aware"]["test"]["llm_recommender"] == reference["rows"]["aware"]["test"]["llm_recommender"]
    assert merged["seconds"]["encoder"] == reference["seconds"]["encoder"]
    cell("no_codebook", small_settings(long_from="raw"))
    assert trained == ["recommender"]
    untimed = cell("no_times", small_settings(timed=False))
    assert trained == list(PARTS)
    assert list(untimed["rows"]) == ["free"]
    cell("no_matching", small_settings(matching_weight=0.0), code="v2")
    assert trained == list(PARTS), "other code makes other parts"

    for part in ("validation", "test"):
        figures = reference["rows"]["aware"][part]["hymirec"]
        values = unpack(reference["ndcg@10_of_users"]["aware"][part]["hymirec"])
        assert len(values) == reference["users"][part]
        assert figures["ndcg@10"][0] == pytest.approx(values.mean(), abs=1e-6)
        assert all(low <= mean <= high for mean, low, high in figures.values())
    assert 1 <= reference["effective_rank"] <= 2

    table = report.write_tables(results)
    assert table == results.with_suffix(".md").read_text(encoding="utf-8")
    stored = {path.stem: read_cell(path) or {} for path in (results / "demo").glob("*.json")}
    assert stored["no_transitions-0"]["paired"]["aware"]["test"]["LLM recommender"] == [0, 0, 0]
    ours, theirs = (found["rows"]["free"]["test"]["hymirec"]["ndcg@10"][0] for found in (untimed, reference))
    assert stored["no_times-0"]["paired"]["free"]["test"]["HyMiRec"][0] == pytest.approx(ours - theirs, abs=1e-6)
    assert "paired" not in stored[f"{REFERENCE}-0"]
    assert "paired" not in stored["no_matching-0"], "another version of the code"
    assert "2 versions of the code" in table
    first = table.split("### HyMiRec, time-aware")[1]
    mean = stored[f"{REFERENCE}-0"]["rows"]["aware"]["validation"]["llm_recommender"]["ndcg@10"][0]
    assert f"| reference | 0 | LLM recommender | {mean:.4f} [" in first


def test_gemirecs_cells_train_stage_6_only(tmp_path: Path, trained: list[str]) -> None:
    data, folder, results = world(), tmp_path / "parts", tmp_path / "results" / "ablations"
    hymirec = make.measure_cell(Parts(folder, data, small_settings(), "v1"))

    def cell(name: str, own_code: str = "v2", **changes: Any) -> dict[str, Any]:
        trained.clear()
        settings = gemirec_settings(**changes)
        figures = make_gemirec.measure_gemirec(GemiRecParts(folder, data, settings, "v1", own_code))
        found = {"cell": name, "seed": 0, "split_hash": "split", "settings": settings, "code": own_code, **figures}
        write_cell(results / "demo" / f"{name}-0.json", found)
        return found

    reference = cell("gemirec")
    assert trained == list(OWN_PARTS)
    assert list(reference["seconds"]) == [*OWN_PARTS, "ranking"]
    cell("gemirec_k_16", lists=Lists(shown=16))
    quotas = cell("gemirec_quotas", lists=Lists(shown=2, merge="quotas"))
    history = cell("gemirec_history", lists=Lists("history"))
    refined = cell("gemirec_no_dictionary", lists=Lists("refined"))
    assert trained == [], "ways of making lists need no training"
    mixture = cell("gemirec_mixture", variant="mixture")
    assert trained == list(OWN_PARTS[1:])
    cell("gemirec_sum", summed=True)
    assert trained == list(OWN_PARTS[1:])
    large = cell("gemirec_large_cells", items_per_cell=6)
    assert trained == list(OWN_PARTS)
    cell("gemirec_no_prior", own_code="v3")
    assert trained == list(OWN_PARTS), "code of stage 6 makes new parts of stage 6 alone"

    for part in report.PARTS:
        for metric in make.METRICS:
            ours, theirs = (
                found["rows"]["aware"][part][row][metric]
                for found, row in ((refined, GEMIREC), (hymirec, "llm_recommender"))
            )
            assert ours == theirs, "the LLM recommender by itself"
        figures = reference["rows"]["free"][part][GEMIREC]
        assert set(figures) == set(make_gemirec.METRICS)
        for metric in make_gemirec.PAIRED:
            values = unpack(reference[f"{metric}_of_users"]["free"][part][GEMIREC])
            assert figures[metric][0] == pytest.approx(np.nanmean(values), abs=1e-6)
    assert history["rows"]["aware"]["test"][GEMIREC][make_gemirec.NEW] == [0, 0, 0], "by construction"
    assert quotas["rows"]["aware"]["test"][GEMIREC][make_gemirec.VARIETY][2] <= 2, "two cells are shown"
    assert (refined["dictionary"], refined["interests"]["shown"]) == (None, 3)
    assert large["dictionary"]["sizes"] == [2, 2]
    assert mixture["interests"]["shown"] == 4

    table = report.write_tables(results)
    paired = {path.stem: (read_cell(path) or {}).get("paired") for path in (results / "demo").glob("*.json")}
    labels = ("NDCG@10", "Recall@50", "new interests@10")
    assert paired["gemirec_k_16-0"]["aware"]["test"] == {label: [0, 0, 0] for label in labels}, "all cells are shown"
    assert paired["gemirec_history-0"]["aware"]["test"]["new interests@10"][0] <= 0
    assert paired["gemirec-0"] is None
    assert paired["gemirec_no_prior-0"] is None, "another version of the code"
    assert "### GemiRec, interests" in table
    assert "| gemirec_large_cells | 0 | 2 × 2 |" in table
    assert "HyMiRec: epochs" not in table, "there is no cell of it"


def test_a_sum_of_codes_is_half_as_wide() -> None:
    torch.manual_seed(0)
    plain = InterestDictionary(InterestDictionaryConfig(6, 3, 8, (2, 3)))
    summed = Summed(plain.config)
    summed.load_state_dict(plain.state_dict())
    both = plain.cell_embeddings()
    torch.testing.assert_close(summed.cell_embeddings(), both[:, :3] + both[:, 3:])
    assert summed.version == plain.version


@torch.no_grad()
def test_history_interests_are_shares_of_the_history() -> None:
    ranker = gemirec()
    counted = HistoryInterests(ranker.context, ranker.posterior, ranker.head, ranker.table, ranker.label)
    events, users, ends = asked()
    found = counted.cells(events, users, ends).exp()
    for user, items in enumerate(events.items_E.split(LENGTHS)):
        expected = torch.bincount(ITEM_CELLS[items], minlength=12) / len(items)
        torch.testing.assert_close(found[user], expected)
    scores = counted.scores(events, users, ends)
    own = ITEM_CELLS[events.items_E[-1]] == ITEM_CELLS
    assert (scores[2].isfinite() == (own & RECOMMENDABLE)).all(), "the last user has one event, hence one cell"


@torch.no_grad()
@pytest.mark.parametrize("merge", ["factorised", "max_score", "quotas"])
def test_lists_of_the_shown_interests(merge: str) -> None:
    """Seen items take no place; likelihood: the ranker's own; best score: lists sum to 1; quotas: round by round."""
    ranker = gemirec(spread=0.8)
    events, users, ends = asked()
    scores = ShownInterests(ranker, 3, merge, "filtered").scores(events, users, ends)
    best = ranker.cells(events, users, ends).topk(3).indices
    whole = ranker.scores(events, users, ends)
    for user, items in enumerate(events.items_E.split(LENGTHS)):
        free = RECOMMENDABLE.clone()
        free[items] = False
        shown = free & (best[user][:, None] == ITEM_CELLS).any(0)
        assert (scores[user].isfinite() == shown).all()
        if merge == "factorised":
            torch.testing.assert_close(scores[user][shown], whole[user][shown], atol=1e-5, rtol=1e-5)
        lists = [free & (cell == ITEM_CELLS) for cell in best[user]]
        if merge == "max_score":
            masses = torch.stack([scores[user][own].exp().sum() for own in lists if own.any()])
            torch.testing.assert_close(masses, torch.ones(len(masses)), atol=1e-5, rtol=0)
        if merge == "quotas":
            cells = ITEM_CELLS[scores[user].topk(int(shown.sum())).indices].tolist()
            places = [cells[:place].count(cell) for place, cell in enumerate(cells)]
            assert places == sorted(places), "each interest's first item comes before any second, and so on"


def test_distinct_cells_count_no_empty_place() -> None:
    lists = np.array([[0, 1, 2, -1], [3, 4, 5, 0], [-1, -1, -1, -1]])
    assert make_gemirec.distinct_cells(lists, np.array([0, 0, 1, 2, 2, 5])).tolist() == [2, 3, 0]


@torch.no_grad()
def test_spread_counts_the_interests_that_a_user_has() -> None:
    ranker = gemirec()
    counted = HistoryInterests(ranker.context, ranker.posterior, ranker.head, ranker.table, ranker.label)
    events, users, ends = asked()
    vectors = make_gemirec._interests(counted, events, users, ends)
    for found in vectors.values():
        norms = found.norm(dim=2)
        assert norms[2].tolist() == pytest.approx([1, 0, 0], abs=1e-5), "one event, one interest"
        torch.testing.assert_close(norms[:2], torch.ones(2, 3), atol=1e-5, rtol=0)
    pairs = make_gemirec._pair_cosine(vectors[""])
    first = vectors[""][0].double()
    expected = torch.stack([first[a] @ first[b] for a, b in ((0, 1), (0, 2), (1, 2))]).mean()
    torch.testing.assert_close(pairs[0], expected)
    assert pairs[2].isnan()
    two = torch.eye(3)[None, [0, 1, 2]] * torch.tensor([1.0, 1.0, 0.0])[None, :, None]
    assert make_gemirec._pair_cosine(two).tolist() == [0]
    assert make_gemirec._mean([pairs, torch.full((2,), torch.nan)]) == pytest.approx(float(pairs[:2].mean()))
    assert make_gemirec._mean([pairs[2:]]) is None


def test_several_seeds_are_summed_up(tmp_path: Path) -> None:
    zeros, ones = pack(np.zeros(4)), pack(np.ones(4))
    for name, value, seeds in ((REFERENCE, zeros, (1, 2)), ("k_2", ones, (1,)), ("k_2", zeros, (2,))):
        for seed in seeds:
            users = {"aware": {part: dict.fromkeys(make.COMPARED, value) for part in report.PARTS}}
            row = {name: {metric: [0.0, 0.0, 0.0] for metric in make.METRICS} for name in report.LABELS}
            figures = {
                "rows": {"aware": {"validation": row, "test": row}},
                "ndcg@10_of_users": users,
                "users": {"validation": 4, "test": 4},
                "effective_rank": 1.0,
                "seconds_in_all": 1.0,
                "peak_mb": None,
                "machine": {"cpu": "c", "threads": "1", "torch": "2"},
            }
            identity = {"cell": name, "seed": seed, "split_hash": "s", "code": "c"}
            write_cell(tmp_path / "ablations" / "demo" / f"{name}-{seed}.json", {**identity, **figures})
    table = report.write_tables(tmp_path / "ablations")
    assert "- k_2, 2 seeds, mean Δ and range: LLM recommender validation +0.5000 (+0.0000 to +1.0000)" in table
    assert "**+1.0000 [+1.0000, +1.0000]**" in table


def identity(**changes: Any) -> dict[str, Any]:
    made_from = {"environment": "nowhere", "cell": "k_2", "seed": 1, "split_hash": "s", "settings": {}, "code": "c"}
    return {**made_from, **changes}


def test_a_cell_stands_until_what_it_was_made_from_changes(tmp_path: Path) -> None:
    path = tmp_path / "k_2-1.json"
    assert not run.stands(path, identity())
    write_cell(path, {**identity(), "failed": "why not"})
    assert run.stands(path, identity())
    for key in run.IDENTITY:
        assert not run.stands(path, identity(**{key: "other"})), key


def test_a_cell_that_fails_or_does_not_end_says_so(tmp_path: Path) -> None:
    path = tmp_path / "k_2-1.json"
    assert run.run_cell(path, tmp_path, identity(), {}, 0.01) == "did not end"
    assert (read_cell(path) or {})["failed"] == "did not end within 0.01 s"
    assert run.run_cell(path, tmp_path, identity(), {}, 600).startswith("failed")
    assert (read_cell(path) or {})["failed"] == "KeyError: 'nowhere'"


def test_the_command_runs_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def fake(path: Path, work: Path, made_from: dict[str, Any], parameters: dict[str, Any], seconds: float) -> str:
        ran.append(path.name)
        write_cell(path, {**made_from, "failed": "no disk"})
        return "failed"

    monkeypatch.setattr(run, "prepare", lambda environment, work: configured(environment))
    monkeypatch.setattr(run, "load", lambda environment, parameters: world())
    monkeypatch.setattr(run, "run_cell", fake)
    monkeypatch.setattr(run, "code_version", lambda *_: "v1")
    words = ["--env", "demo", "--work", str(tmp_path), "--results", str(tmp_path / "r"), "--cells", "k_2", "k_4"]
    for _ in range(2):
        run.main(words)
    assert ran == ["k_2-20260101.json"]
    told = capsys.readouterr().out
    assert "k_4 20260101: skipped: it is the reference here" in told
    assert "k_2 20260101: is there" in told
    assert "k_2, 20260101: did not run: no disk" in told
    run.main([*words, "--retry"])
    assert len(ran) == 2
