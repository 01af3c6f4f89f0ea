"""Nodes of `interest_dictionary`: fit, refresh, cells, reports; what a refresh that was cut off leaves."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from torch.nn import functional as F

from models.small import small_encoder
from pipelines.refresh_sets import Workspace, settled_version
from prismrec.artifacts import atomic
from prismrec.artifacts.bundle import LABELS_OF
from prismrec.data.histories import Histories
from prismrec.data.splits import leave_one_out
from prismrec.errors import LineageError, UserError
from prismrec.models import backbone, load_model
from prismrec.models.gemirec import GemiRecRanker
from prismrec.models.interest_dictionary import stamped_version
from prismrec.models.merge import Merge, MergeConfig
from prismrec.models.recommender import Recommender, RecommenderConfig
from prismrec.parameters.interest_dictionary import InterestDictionaryParameters
from prismrec.pipelines.interest_dictionary import nodes
from prismrec.quantization.codebook import Codebook
from prismrec.training.dictionary_refresh import KeptDictionary
from prismrec.training.gemirec import PosteriorTask

PROJECT = Path(__file__).parents[2]
ITEMS = 150


def parameters(**changes: Any) -> InterestDictionaryParameters:
    text = (PROJECT / "conf/base/parameters_interest_dictionary.yml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)["interest_dictionary"]
    sizes = {"warm_up_steps": 20, "steps": 40, "code_dim": 4, "hidden": 12, "batch_size": 64}
    return InterestDictionaryParameters(
        **{**values, "seed": 0, "dictionary": {**values["dictionary"], **sizes}, **changes}
    )


def item_vectors(seed: int = 0, nudge: float = 0.0) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(ITEMS, 8, generator=generator), dim=-1)
    noise = torch.randn(ITEMS, 8, generator=torch.Generator().manual_seed(99))
    vectors = F.normalize(vectors + nudge * noise, dim=-1)
    known = np.ones(ITEMS, dtype=bool)
    known[:5] = False
    return {"vectors": vectors.numpy(), "text_only": vectors.flip(0).numpy(), "recommendable": known}


First = tuple[KeptDictionary, Path, dict[str, np.ndarray], dict[str, Any]]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> First:
    """A dictionary, where it is kept, its cells, how it came about."""
    kept, origin, _ = nodes.fit_dictionary(item_vectors(), None, parameters())
    folder = tmp_path_factory.mktemp("kept") / "dictionary"
    kept.save(folder)
    return kept, folder, nodes.assign_cells(kept.dictionary, item_vectors()), origin


def test_cells_carry_the_version_and_vectors_lie_with_the_dictionary(first: First) -> None:
    kept, folder, cells, origin = first
    assert stamped_version(cells) == kept.dictionary.version
    assert len(cells["cells"]) == ITEMS
    assert origin["kind"] == "fitted"
    loaded = KeptDictionary.load(folder)
    assert loaded.dictionary.version == kept.dictionary.version == load_model(folder).version
    assert len(loaded.rows.items_N) == ITEMS - 5
    assert torch.equal(loaded.rows.both, kept.rows.both)


def test_whoever_loads_the_model_has_no_vectors(first: First, tmp_path: Path) -> None:
    """So a bundle does not carry them."""
    load_model(first[1]).save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_plain_run_does_not_depend_on_what_was_there_before(first: First) -> None:
    kept, folder, _, _ = first
    again, *_ = nodes.fit_dictionary(item_vectors(), folder, parameters())
    assert again.dictionary.version == kept.dictionary.version


def test_a_refresh_goes_on_with_the_parent(first: First) -> None:
    kept, folder, cells, _ = first
    now = item_vectors(nudge=0.01)
    child, origin, _ = nodes.fit_dictionary(now, folder, parameters(refresh=True))
    assert origin["kind"] == "refreshed"
    assert child.dictionary.config.parent == kept.dictionary.version
    new_cells = nodes.assign_cells(child.dictionary, now)
    report, plot, health = nodes.report_dictionary(child.dictionary, origin, new_cells, now, folder)
    assert report["parent"] == report["previous"] == kept.dictionary.version
    assert report["items_in_both"] == ITEMS - 5
    known = now["recommendable"]
    assert report["items_moved"] == int((cells["codes"][known] != new_cells["codes"][known]).any(1).sum())
    assert report["barely_moved_changed_share"] <= 0.05
    assert not report["aligned"]
    assert health["codes_born"] >= 0
    json.dumps([report, plot, health], allow_nan=False)


def test_a_refresh_that_was_cut_off_is_gone_on_with(first: First, tmp_path: Path) -> None:
    """It got as far as its dictionary: that one is the parent of the next, and already what that one would make."""
    now = item_vectors(nudge=0.01)
    cut_off, *_ = nodes.fit_dictionary(now, first[1], parameters(refresh=True))
    cut_off.save(tmp_path)
    again, origin, _ = nodes.fit_dictionary(now, tmp_path, parameters(refresh=True))
    assert origin["kind"] == "unchanged"
    assert again.dictionary.version == cut_off.dictionary.version


def test_the_first_run_reports_too(first: First) -> None:
    kept, _, cells, origin = first
    report, _, health = nodes.report_dictionary(kept.dictionary, origin, cells, item_vectors(), None)
    assert report["kind"] == "fitted"
    assert "previous" not in report
    assert health["reconstruction_loss"] > 0


@pytest.mark.parametrize("there", [False, True])
def test_a_refresh_needs_a_parent_with_its_vectors(first: First, tmp_path: Path, there: bool) -> None:
    kept, _, cells, origin = first
    kept.dictionary.save(tmp_path)  # as the releases before did, without vectors
    folder = tmp_path if there else None
    with pytest.raises(UserError, match="no previous dictionary"):
        nodes.fit_dictionary(item_vectors(), folder, parameters(refresh=True))
    report, *_ = nodes.report_dictionary(kept.dictionary, origin, cells, item_vectors(), folder)
    assert "previous" not in report


def test_interests_are_named_counted_and_placed(first: First) -> None:
    kept, _, cells, _ = first
    items = pl.DataFrame(
        {
            "item_id": [str(item) for item in range(ITEMS)],
            "title": [None if item == 7 else f"title {item}" for item in range(ITEMS)],
            "categories": [["sea"] if item % 2 else ["land"] for item in range(ITEMS)],
        }
    )
    histories = Histories.from_lists([list(range(user, ITEMS, 3)) for user in range(3)])
    names, table, figure = nodes.label_interests(kept.dictionary, cells, item_vectors(), items, histories)
    assert table["dictionary"] == kept.dictionary.version
    assert sum(row["items"] for row in table["interests"]) == ITEMS - 5
    assert {row["id"]: row["name"] for row in table["interests"]}.items() <= names.items()
    assert len(figure["data"][0]["x"]) == len(table["interests"])
    assert names[LABELS_OF] == kept.dictionary.version


# Posterior and retrieval head go on too


def short(training: dict[str, Any]) -> dict[str, Any]:
    return {**training, "epochs": 4, "batch_size": 8, "validation_users": 30, "checkpoint_seconds": 0.0}


def stage_parameters(**changes: Any) -> InterestDictionaryParameters:
    """The stage's, small; a refresh trains for a tenth of four epochs of eight steps."""
    values = yaml.safe_load((PROJECT / "conf/base/parameters_interest_dictionary.yml").read_text())
    posterior, retrieval = (values["interest_dictionary"][name] for name in ("posterior", "retrieval"))
    changes["posterior"] = {**posterior, "hidden": 16, **changes.get("posterior", {})}
    changes["posterior"]["training"] = short(posterior["training"])
    changes["retrieval"] = {**retrieval, "hidden": 12, **changes.get("retrieval", {})}
    changes["retrieval"]["training"] = short(retrieval["training"])
    return parameters(**{"refresh_share": 0.1, **changes})


@pytest.fixture(scope="module")
def upstream() -> dict[str, Any]:
    """A recommender with random item offsets, codebook and codes, and 64 random histories, leave-one-out."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    decoder = backbone.from_pretrained("scratch", backbone.scratch_config(16, 1, 2, 0.1, 64))
    config = RecommenderConfig(8, 2, 6, 12, False, 0.1, "scratch", num_items=ITEMS)
    recommender = Recommender(config, small_encoder(), decoder).eval()
    torch.nn.init.normal_(recommender.offset_ND, std=0.2)
    codebook = Codebook.fit(item_vectors()["vectors"], layers=2, codes=8, iterations=2, seed=0)
    histories = Histories.from_lists([rng.choice(np.arange(5, ITEMS), 12, replace=False).tolist() for _ in range(64)])
    return {
        "recommender": recommender,
        "codebook": codebook,
        "item_codes": codebook.encode(item_vectors()["vectors"]).arrays(),
        "histories": histories,
        "splits": leave_one_out(histories),
    }


def run_stage(
    folder: Path, upstream: dict[str, Any], before: Path | None, nudge: float = 0.0, **changes: Any
) -> dict[str, Any]:
    """Dictionary, posterior and head, saved in a folder; a refresh of what is in the folder before."""
    settings, vectors = stage_parameters(refresh=before is not None, **changes), item_vectors(nudge=nudge)
    previous = {name: None if before is None else before / name for name in ("dictionary", "posterior", "retrieval")}
    kept, _, origins = nodes.fit_dictionary(vectors, previous["dictionary"], settings)
    given = {
        **upstream, "dictionary": kept.dictionary, "item_vectors": vectors, "parameters": settings,
        "item_cells": nodes.assign_cells(kept.dictionary, vectors), "dictionary_origins": origins,
    }  # fmt: skip
    posterior, curve = nodes.train_posterior(**given, previous_posterior=previous["posterior"])
    head, head_curve = nodes.train_retrieval(
        **given, posterior=posterior, previous_retrieval=previous["retrieval"]
    )  # fmt: skip
    for name, made in (("dictionary", kept), ("posterior", posterior), ("retrieval", head)):
        made.save(folder / name)
    return {"kept": kept, "posterior": posterior, "retrieval": head, "curves": {**head_curve, **curve}}


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, upstream: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The stage in full, and where it is kept."""
    folder = tmp_path_factory.mktemp("day")
    return folder, run_stage(folder, upstream, None)


def test_a_refresh_trains_on_from_the_previous_models(
    day: tuple[Path, dict[str, Any]], upstream: dict[str, Any], tmp_path: Path
) -> None:
    folder, before = day
    after = run_stage(tmp_path, upstream, folder, nudge=0.01)
    version = after["kept"].dictionary.version
    assert version != before["kept"].dictionary.version
    for name in ("posterior", "retrieval"):
        assert after[name].config.dictionary == version
        assert after["curves"][f"{name}_refreshed"]
        assert not before["curves"][f"{name}_refreshed"]
        assert before["curves"][f"{name}_epochs"] > 1
        assert after["curves"][f"{name}_epochs"] == 1
        old, new = (each[name].requires_grad_(False).state_dict() for each in (before, after))
        names = [key for key, _ in before[name].named_parameters()]
        moved = max(float((new[key] - old[key]).abs().max()) for key in names)
        assert 0 < moved < 0.01, "it moved, but for a few steps at a low rate only"
    for curves in (before["curves"], after["curves"]):
        assert curves["posterior_validation_log_likelihood"] < 0 <= curves["posterior_validation_calibration_error"]
    cells = nodes.assign_cells(after["kept"].dictionary, item_vectors(nudge=0.01))
    nodes.check_one_dictionary(after["kept"].dictionary, after["posterior"], after["retrieval"], cells)


def same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(
        torch.equal(one, other) for one, other in zip(*(m.state_dict().values() for m in (first, second)), strict=True)
    )


def test_a_refresh_without_news_changes_nothing(
    day: tuple[Path, dict[str, Any]], upstream: dict[str, Any], tmp_path: Path
) -> None:
    folder, before = day
    again = run_stage(tmp_path / "same", upstream, folder)
    other = run_stage(tmp_path / "other", upstream, folder, refresh_share=0.2)
    for name in ("posterior", "retrieval"):
        assert again["curves"][f"{name}_refreshed"]
        assert again["curves"][f"{name}_epochs"] == 0
        assert same_weights(before[name], again[name]), name
        assert again[name].config == before[name].config
        assert not same_weights(before[name], other[name]), "with other parameters it trains on"
    for figure, value in again["curves"].items():
        if figure.startswith("posterior_validation_cell"):
            assert value == before["curves"][figure]


def test_a_refresh_that_was_cut_off_ends_as_if_it_had_not_been(
    day: tuple[Path, dict[str, Any]], upstream: dict[str, Any], tmp_path: Path
) -> None:
    """Cut between posterior and head: the dictionary and the posterior on disk are the refreshed ones."""
    whole = run_stage(tmp_path / "whole", upstream, day[0], nudge=0.01)
    cut = tmp_path / "cut"
    for name, folder in (("dictionary", tmp_path / "whole"), ("posterior", tmp_path / "whole"), ("retrieval", day[0])):
        shutil.copytree(folder / name, cut / name)
    again = run_stage(tmp_path / "again", upstream, cut, nudge=0.01)
    assert again["kept"].dictionary.version == whole["kept"].dictionary.version
    for name in ("posterior", "retrieval"):
        assert same_weights(whole[name], again[name]), name
        assert again[name].config == whole[name].config


def test_a_share_of_one_trains_both_anew(
    day: tuple[Path, dict[str, Any]], upstream: dict[str, Any], tmp_path: Path
) -> None:
    after = run_stage(tmp_path, upstream, day[0], nudge=0.01, refresh_share=1.0)
    assert after["kept"].dictionary.config.parent == day[1]["kept"].dictionary.version
    assert not after["curves"]["posterior_refreshed"]
    assert not after["curves"]["retrieval_refreshed"]


def test_a_model_of_another_dictionary_is_refused_with_the_mend(
    day: tuple[Path, dict[str, Any]], upstream: dict[str, Any], tmp_path: Path
) -> None:
    """Two refreshes ran as far as their dictionary: the posterior is of the parent's parent."""
    for number, nudge in enumerate((0.01, 0.02)):
        parent = tmp_path / str(number - 1) / "dictionary" if number else day[0] / "dictionary"
        kept, *_ = nodes.fit_dictionary(item_vectors(nudge=nudge), parent, stage_parameters(refresh=True))
        kept.save(tmp_path / str(number) / "dictionary")
    for name in ("posterior", "retrieval"):
        (tmp_path / "1" / name).symlink_to(day[0] / name)
    with pytest.raises(UserError, match=day[1]["kept"].dictionary.version) as refused:
        run_stage(tmp_path / "new", upstream, tmp_path / "1", nudge=0.02)
    assert "refresh_share=1" in str(refused.value)
    after = run_stage(tmp_path / "new", upstream, tmp_path / "1", nudge=0.02, refresh_share=1.0)
    assert after["kept"].dictionary.version == kept.dictionary.version, "the mend keeps the refreshed dictionary"


def test_a_refresh_that_was_cut_off_goes_on_with_the_origins_of_its_dictionary(
    day: tuple[Path, dict[str, Any]], upstream: dict[str, Any], tmp_path: Path
) -> None:
    """The dictionary got through, the posterior did not: the same as if nothing had been cut."""
    whole = run_stage(tmp_path / "whole", upstream, day[0], nudge=0.01)
    cut = tmp_path / "cut"
    whole["kept"].save(cut / "dictionary")
    for name in ("posterior", "retrieval"):
        (cut / name).symlink_to(day[0] / name)
    again = run_stage(tmp_path / "again", upstream, cut, nudge=0.01)
    assert again["kept"].dictionary.version == whole["kept"].dictionary.version
    for name in ("posterior", "retrieval"):
        one, other = (each[name].state_dict() for each in (whole, again))
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_another_size_of_model_is_refused(
    day: tuple[Path, dict[str, Any]], upstream: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="hidden 16 and not 32"):
        run_stage(tmp_path, upstream, day[0], nudge=0.01, posterior={"hidden": 32})


def test_what_has_nothing_to_go_on_with_is_trained_in_full(
    day: tuple[Path, dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """No previous model, or a dictionary that was fitted anew for its vectors were too far: one line says so."""
    settings, (folder, found) = stage_parameters(refresh=True), day
    anew, _, origins = nodes.fit_dictionary(item_vectors(seed=5), folder / "dictionary", settings)
    assert anew.dictionary.config.parent is None
    kept = found["kept"].dictionary
    with caplog.at_level("INFO"):
        assert nodes._before("posterior", None, kept, origins, settings, None) is None
        assert nodes._before("posterior", folder / "posterior", anew.dictionary, origins, settings, None) is None
    assert "there is no previous one" in caplog.text
    assert "the dictionary has no parent" in caplog.text


def test_a_final_fit_in_full_does_not_take_over_a_refreshs_epochs(upstream: dict[str, Any], tmp_path: Path) -> None:
    choices = {"refreshed": True, "epochs": {"posterior": 1, "retrieval": 1}}
    with pytest.raises(UserError, match="The run before was a refresh"):
        run_stage(tmp_path, {**upstream, "choices": choices}, None)


def test_a_final_fit_after_a_start_that_nothing_beat_keeps_it(upstream: dict[str, Any], tmp_path: Path) -> None:
    """No epoch is trained, and all that is said beside the recommender is the temperature."""
    choices = {"refreshed": False, "epochs": {"posterior": 0, "retrieval": 0}, "posterior_temperature": 1.25}
    made = run_stage(tmp_path, {**upstream, "choices": choices}, None, retrieval={"merge": "quotas"})
    assert load_model(tmp_path / "retrieval").config.merge == "quotas"
    assert not any(out.weight.any() or out.bias.any() for out in made["posterior"].level_out)
    assert not made["retrieval"].out.weight.any()
    assert made["posterior"].config.temperature == 1.25
    assert [made["curves"][name] for name in ("epochs", "posterior_epochs", "retrieval_best_epoch")] == [[], 0, 0]
    assert "posterior_validation_log_likelihood" not in made["curves"], "its validation events train"


def test_the_stages_metrics_say_what_probabilities_of_cells_are_worth(first: First) -> None:
    curve = {"epochs": [], "posterior_validation_log_likelihood": -1.5, "posterior_best_epoch": 2}
    merge = {"ndcg@10": 0.3, "cell_log_likelihood": -1.25, "cell_calibration_error": 0.125}
    found = nodes.collect_metrics(first[0].dictionary, {"cells": 9.0}, curve, {"retrieval_best_epoch": 0}, merge)
    assert found == {
        "dictionary": first[0].dictionary.version, "cells": 9.0, "posterior_validation_log_likelihood": -1.5,
        "posterior_best_epoch": 2, "retrieval_best_epoch": 0, "prismrec_validation_log_likelihood": -1.25,
        "prismrec_validation_calibration_error": 0.125,
    }  # fmt: skip
    settled = nodes.collect_metrics(first[0].dictionary, {}, {}, {}, {"weight_hymirec": 1.0})
    assert list(settled) == ["dictionary"]


def test_rules_that_take_lists_of_cells_are_refused_for_the_mixture() -> None:
    stage_parameters(retrieval={"variant": "mixture"})
    with pytest.raises(ValueError, match="merge quotas takes lists of cells"):
        stage_parameters(retrieval={"variant": "mixture", "merge": "quotas"})
    with pytest.raises(ValueError, match=r"retrieval\.merge"):
        stage_parameters(retrieval={"merge": "best"})


def test_the_posterior_is_validated_inside_the_cells_in_the_mixture_too(
    upstream: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained head's mixture is the recommender's list whatever the posterior: nothing to choose an epoch by."""
    asked = []

    def validate(task: PosteriorTask) -> dict[str, float]:
        asked.append(type(task.ranker))
        return {"ndcg@10": 0.1 * len(asked)}

    monkeypatch.setattr(PosteriorTask, "validate", validate)
    made = run_stage(tmp_path, upstream, None, retrieval={"variant": "mixture"})
    assert asked == [GemiRecRanker] * 5
    assert made["retrieval"].config.variant == "mixture"


@pytest.mark.parametrize("name", ["posterior", "retrieval"])
def test_a_refresh_does_not_go_on_with_what_a_final_fit_trained(
    name: str, day: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """It knows the validation events; another final fit may go on with it, and a share of one trains anew."""
    kept, origins = day[1]["kept"], nodes._stamped_origins(day[1]["kept"])
    model = load_model(day[0] / name)
    assert not model.config.final
    model.config = replace(model.config, final=True)
    model.save(tmp_path / name)
    asked = name, tmp_path / name, kept.dictionary, origins
    with pytest.raises(UserError, match=f"previous {name} is that of a final fit") as refused:
        nodes._before(*asked, stage_parameters(refresh=True), None)
    assert "--pipelines final_fit" in str(refused.value)
    assert "refresh_share=1" in str(refused.value)
    assert nodes._before(*asked, stage_parameters(refresh=True), {"epochs": {}}) is not None
    assert nodes._before(*asked, stage_parameters(refresh=True, refresh_share=1.0), None) is None


def test_a_report_gone_on_with_compares_with_the_parent(tmp_path: Path) -> None:
    """The newest dictionary on disk is the refreshed one itself then."""
    first, *_ = nodes.fit_dictionary(item_vectors(), None, stage_parameters())
    first.save(tmp_path / "1" / "dictionary")
    refreshed, facts, _ = nodes.fit_dictionary(
        item_vectors(nudge=0.1), tmp_path / "1" / "dictionary", stage_parameters(refresh=True)
    )
    assert facts["kind"] == "refreshed"
    refreshed.save(tmp_path / "2" / "dictionary")
    cells = nodes.assign_cells(refreshed.dictionary, item_vectors(nudge=0.1))

    def report(previous: str) -> dict[str, Any]:
        folder = tmp_path / previous / "dictionary"
        return nodes.report_dictionary(refreshed.dictionary, facts, cells, item_vectors(nudge=0.1), folder)[0]

    assert report("1")["previous"] == first.dictionary.version
    assert report("2") == report("1")


def unified_arguments(members: tuple[str, ...], previous: Path) -> dict[str, Any]:
    """What is asked where the posterior was refreshed, beside HyMiRec of these members."""
    known = {"merge": Merge(MergeConfig(members)), "previous_unified_merge": previous}
    every = dict.fromkeys(inspect.signature(nodes.fit_unified_merge).parameters)
    dictionary = SimpleNamespace(version="refreshed")
    return every | known | {"dictionary": dictionary, "posterior_curve": {"posterior_refreshed": True}}


@pytest.mark.parametrize("names", [("refined", "coarse", "gemirec"), ("hymirec", "gemirec")])
def test_the_weights_of_the_unified_model_stay_where_the_posterior_went_on(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    """Those of its members, or of HyMiRec as a whole and GemiRec, as releases before fitted them."""
    merge = Merge(MergeConfig(names))
    merge.timed_M.copy_(torch.arange(1, len(names) + 1) / len(names))
    merge.save(tmp_path)
    kept, figures = nodes.fit_unified_merge(**unified_arguments(("refined", "coarse"), tmp_path))
    assert kept.weights() == merge.weights()
    assert kept.config.dictionary == "refreshed"
    assert set(figures.values()) == set(merge.weights().values())


def test_weights_of_other_members_are_refused(tmp_path: Path) -> None:
    Merge(MergeConfig(("refined", "coarse", "gemirec"))).save(tmp_path)
    with pytest.raises(UserError, match="merged refined, coarse, gemirec; this one has refined, coarse, recency"):
        nodes.fit_unified_merge(**unified_arguments(("refined", "coarse", "recency"), tmp_path))


# What is left of a refresh that was cut off


def test_a_cut_at_every_write_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is flushed to the disk once: fail at the first flush, the second, … until a refresh comes through."""
    workspace = Workspace(tmp_path)
    workspace.save(workspace.version(1))
    old = settled_version(workspace)
    flush, seen, between = atomic._flush, {"old": 0, "new": 0}, 0
    for last in range(1, 200):
        calls = iter(range(1, 10_000))

        def cut(path: Path, calls: Any = calls, last: int = last) -> None:
            if next(calls) >= last:
                raise KeyboardInterrupt
            flush(path)

        made = workspace.version(1 + last)
        new = made["dictionary"].dictionary.version
        with monkeypatch.context() as patch:
            patch.setattr(atomic, "_flush", cut)
            try:
                workspace.save(made)
            except KeyboardInterrupt:
                pass
            else:
                break
        seen[{old: "old", new: "new"}[settled_version(workspace)]] += 1
        between += workspace.cut_between()
        assert workspace.check_bundle() in (old, new)
        workspace.save(workspace.version(1))  # the mend: the stages once more
        assert settled_version(workspace) == old
    assert settled_version(workspace) == workspace.check_bundle() == new
    assert seen["new"] > 0, "otherwise no cut fell between the record and the bundle"
    assert between > 10, "otherwise no cut fell between two datasets"


@pytest.mark.parametrize("part", ["item_cells", "posterior", "retrieval"])
def test_parts_of_two_dictionaries_are_refused(part: str, tmp_path: Path) -> None:
    """As runs of single nodes may leave them; the message names both versions."""
    workspace = Workspace(tmp_path)
    one, other = workspace.version(1), workspace.version(2)
    parts = {**one, part: other[part], "dictionary": one["dictionary"].dictionary}
    with pytest.raises(LineageError, match=parts["dictionary"].version) as refused:
        nodes.check_one_dictionary(*(parts[name] for name in ("dictionary", "posterior", "retrieval", "item_cells")))
    assert other["dictionary"].dictionary.version in str(refused.value)


@pytest.mark.slow
def test_real_kills_leave_one_version_whole(tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_refresh.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "12", "7"],
        env={**os.environ, "PYTHONPATH": str(script.parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert len(seen["versions"]) == 13
    assert len(set(seen["versions"])) > 1, "no child came to the end of a set"
    assert seen["between"] > 0, "no kill fell between two datasets"
