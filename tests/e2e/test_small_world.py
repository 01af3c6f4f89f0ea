"""A small world through all stages: byte-identical twice, stage by stage, and what goes wrong in words."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from e2e_runs import PROJECT, prismrec

SMALL = ",".join(
    f"{key}={value}"
    for key, value in {
        "data_validation.synthetic.users": 200,
        "data_validation.synthetic.items": 240,
        "data_validation.synthetic.cold_items": 6,
        "data_validation.synthetic.silent_items": 4,
        "data_validation.synthetic.longest_history": 80,
        "lightweight_encoder.training.epochs": 1,
        "evaluation.baselines.training.epochs": 1,
        "evaluation.bootstrap_draws": 200,
        "llm_recommender.training.epochs": 1,
        "interest_dictionary.posterior.training.epochs": 1,
        "interest_dictionary.retrieval.training.epochs": 1,
        "interest_dictionary.dictionary.warm_up_steps": 25,
        "interest_dictionary.dictionary.steps": 100,
    }.items()
)
MODELS = "lightweight_encoder,codebook,llm_recommender,interest_dictionary,evaluation"  # what a new split changes
# Great Expectations writes identifiers of its own; run.json holds times.
VOLATILE = ("data_docs", "run.json")


@pytest.fixture(scope="module")
def workspaces(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two workspaces folders with the same small run, by two threads: one would repeat itself too easily."""
    folders = [tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")]
    for folder in folders:
        done = prismrec(folder, "run", "--params", SMALL, OMP_NUM_THREADS="2")
        assert done.returncode == 0, done.stderr
    return folders


def contents(workspaces: Path) -> dict[str, bytes]:
    """Every deterministic file of the demo workspace by its path, without the version in between."""
    root = workspaces / "demo"
    files = {}
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        if path.is_file() and not any(name in str(relative) for name in VOLATILE):
            parts = [part for part in relative.parts if not (part[:2] == "20" and part.endswith("Z"))]
            files["/".join(parts)] = path.read_bytes()
    return files


def test_two_runs_write_the_same_bytes(workspaces: list[Path]) -> None:
    first, second = (contents(folder) for folder in workspaces)
    assert first.keys() == second.keys()
    manifests = {name for name in first if name.startswith("08_reporting/manifests/")}
    assert len(manifests) == 8
    assert [name for name in first if first[name] != second[name]] == []


def test_a_stage_runs_alone_on_what_the_catalog_holds(workspaces: list[Path]) -> None:
    done = prismrec(workspaces[0], "run", "--pipelines", "codebook", "--params", SMALL, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    codebooks = sorted((workspaces[0] / "demo" / "06_models" / "codebook").glob("2*"))
    assert len(codebooks) == 2
    first, second = ((v / "codebook" / "model.safetensors").read_bytes() for v in codebooks)
    assert first == second


def test_a_refresh_goes_on_with_the_workspaces_last_models(workspaces: list[Path]) -> None:
    """On the same data nothing is new: dictionary, posterior and head stay as they are."""
    refresh = f"{SMALL},interest_dictionary.refresh=true"
    done = prismrec(
        workspaces[0], "run", "--pipelines", "interest_dictionary", "--params", refresh, OMP_NUM_THREADS="2"
    )
    assert done.returncode == 0, done.stderr
    figures = sorted((workspaces[0] / "demo" / "08_reporting" / "interest_dictionary_metrics.json").glob("2*"))
    before, after = (json.loads((v / "interest_dictionary_metrics.json").read_text()) for v in figures[-2:])
    assert after["dictionary"] == before["dictionary"]
    for name in ("posterior", "retrieval"):
        assert (before[f"{name}_refreshed"], after[f"{name}_refreshed"]) == (False, True)
        models = sorted((workspaces[0] / "demo" / "06_models" / name).glob("2*"))
        first, second = ((v / name / "model.safetensors").read_bytes() for v in models[-2:])
        assert first == second


def newest(entry: Path) -> str:
    """The newest version of a dataset, whatever became of its stage."""
    return max(path.parent.name for path in entry.glob("2*/manifest.json"))


def test_a_killed_stage_leaves_the_set_before_it(workspaces: list[Path], tmp_path: Path) -> None:
    """Killed as soon as its new dictionary is there: what is read and packaged next is the old set."""
    shutil.copytree(workspaces[1] / "demo", tmp_path / "demo")  # the first one was refreshed, and not evaluated since
    models = tmp_path / "demo" / "06_models"
    old, names = newest(models / "dictionary"), prismrec(tmp_path, "interests").stdout
    other = f"{SMALL},interest_dictionary.seed=7"
    command = [sys.executable, "-m", "prismrec", "run", "--pipelines", "interest_dictionary", "--params", other]
    environment = {**os.environ, "PRISMREC_WORKSPACES": str(tmp_path)}
    with subprocess.Popen(command, cwd=PROJECT, env=environment, stderr=subprocess.DEVNULL) as running:
        until = time.monotonic() + 120
        while newest(models / "dictionary") == old and running.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert newest(models / "dictionary") != old
    assert newest(models / "posterior") < newest(models / "dictionary"), "killed between the datasets of a set"
    assert prismrec(tmp_path, "interests").stdout == names
    packaged = prismrec(tmp_path, "run", "--pipelines", "packaging", "--params", f"{SMALL},packaging.package=this_run")
    assert packaged.returncode == 0, packaged.stderr
    assert "The last run of interest_dictionary was cut off" in packaged.stdout + packaged.stderr
    bundle = max((tmp_path / "demo" / "07_model_output" / "bundle").glob("2*")) / "bundle"
    for part in ("dictionary", "posterior", "retrieval", "unified_merge"):
        before = max(version for version in (models / part).glob("2*") if version.name <= old) / part
        assert (bundle / part / "model.safetensors").read_bytes() == (before / "model.safetensors").read_bytes()


def test_a_run_that_beats_nobody_keeps_the_incumbent_packaged(workspaces: list[Path]) -> None:
    stages = "evaluation,packaging"
    done = prismrec(workspaces[1], "run", "--pipelines", stages, "--params", SMALL, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    assert "not promoted" in done.stdout + done.stderr
    figures = json.loads(prismrec(workspaces[1], "report", "--json").stdout)
    verdict = figures["promotion"]
    assert not verdict["promoted"]
    assert verdict["incumbent"]["model"] == verdict["candidate"]
    assert verdict["incumbent"]["same_split"]
    # The same models, read from a bundle: the same lists.
    incumbent, candidate = figures["models"]["incumbent"], figures["models"][verdict["candidate"]]
    assert incumbent["ndcg@10"] == pytest.approx(candidate["ndcg@10"], abs=1e-6)
    bundles = sorted((workspaces[1] / "demo" / "07_model_output" / "bundle").glob("2*"))
    assert len(bundles) == 2
    first, second = (
        {str(path.relative_to(v)): path.read_bytes() for path in (v / "bundle").rglob("*") if path.is_file()}
        for v in bundles
    )
    assert first == second


def test_a_final_fit_trains_on_validation_too_with_what_was_chosen(workspaces: list[Path], tmp_path: Path) -> None:
    shutil.copytree(workspaces[0] / "demo", tmp_path / "demo")
    before = json.loads(prismrec(tmp_path, "report", "--json").stdout)
    done = prismrec(tmp_path, "run", "--pipelines", "final_fit", "--params", SMALL, OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr
    after = json.loads(prismrec(tmp_path, "report", "--json").stdout)
    assert after["final_fit"]
    assert not before["final_fit"]
    assert after["cases"] == before["cases"]
    assert after["split_hash"] != before["split_hash"]
    for name in ("hymirec", "sasrec", "decayed_markov"):
        old, new = before["models"][name], after["models"][name]
        assert new["validation_ndcg@10"] == old["validation_ndcg@10"]
        assert (new["ndcg@10"] == old["ndcg@10"]) == (name == "decayed_markov"), "counted events were counted before"
    card = max((tmp_path / "demo/07_model_output/model_card.md").glob("2*")) / "model_card.md"
    assert "Final fit" in card.read_text()
    message = failure(prismrec(tmp_path, "run", "--pipelines", "lightweight_encoder", "--params", SMALL))
    assert "final_fit" in message


def test_a_final_fit_needs_a_run_that_chose(tmp_path: Path) -> None:
    assert "previous_choices" in failure(prismrec(tmp_path, "run", "--pipelines", "final_fit"))


def failure(done: subprocess.CompletedProcess[str]) -> str:
    """The message of a run that failed as it should: no traceback, exit code 1 or 2."""
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_a_missing_data_file_is_named(tmp_path: Path) -> None:
    message = failure(prismrec(tmp_path, "run", "--env", "ml1m", PRISMREC_DATA_ROOT=str(tmp_path / "nowhere")))
    assert "nowhere" in message
    assert "PRISMREC_DATA_ROOT" in message


def test_a_misspelt_parameter_is_named(tmp_path: Path) -> None:
    message = failure(prismrec(tmp_path, "run", "--params", "codebook.layres=2"))
    assert "layres" in message
    assert "layers" in message


def test_a_negative_number_of_interests_is_refused(tmp_path: Path) -> None:
    message = failure(prismrec(tmp_path, "run", "--params", "llm_recommender.num_interests=-1"))
    assert "num_interests" in message
    assert "-1" in message


def test_an_unknown_environment_lists_the_known_ones(tmp_path: Path) -> None:
    message = failure(prismrec(tmp_path, "run", "--env", "ml2m"))
    assert "ml2m" in message
    assert "ml1m" in message


def test_a_stage_without_its_inputs_says_what_to_run(tmp_path: Path) -> None:
    message = failure(prismrec(tmp_path, "run", "--pipelines", "codebook"))
    assert "item_vectors" in message
    assert "lightweight_encoder" in message


def test_artefacts_of_two_workspaces_do_not_mix(workspaces: list[Path], tmp_path: Path) -> None:
    other, mixed = tmp_path / "other", tmp_path / "mixed"
    for folder in (other, mixed):
        shutil.copytree(workspaces[0] / "demo", folder / "demo")
    anew = prismrec(
        other, "run", "--pipelines", "lightweight_encoder", "--params", f"{SMALL},lightweight_encoder.seed=7"
    )
    assert anew.returncode == 0, anew.stderr
    taken = Path("demo") / "05_model_input" / "item_vectors.safetensors"
    settled = mixed / taken / newest(mixed / taken)
    shutil.rmtree(settled)
    shutil.copytree(other / taken / newest(other / taken), settled)  # a newer version would be passed over
    message = failure(prismrec(mixed, "run", "--pipelines", "llm_recommender"))
    assert "item_vectors" in message
    assert "kedro run --pipelines" in message


@pytest.mark.parametrize("protocol", ["multi_target_users", "global_time"])
def test_other_protocols_run_to_the_end(workspaces: list[Path], tmp_path: Path, protocol: str) -> None:
    shutil.copytree(workspaces[0] / "demo", tmp_path / "demo", ignore=shutil.ignore_patterns("07_model_output"))
    parameters = f"{SMALL},sequence_building.protocol={protocol},sequence_building.holdout_share=0.2"
    done = prismrec(tmp_path, "run", "--pipelines", f"sequence_building,{MODELS}", "--params", parameters)
    assert done.returncode == 0, done.stderr
    reported = prismrec(tmp_path, "report", "--json")
    figures = json.loads(reported.stdout)
    assert figures["protocol"]["name"] == protocol
    assert figures["cases"]["test"]["targets"] > figures["cases"]["test"]["users"], "several targets a user"
    assert figures["other_history"]["rule"] == "kept"
    for rows in (figures["models"], figures["other_history"]["models"]):
        assert {"sasrec", "comirec", "hymirec", "gemirec", "decayed_markov"} <= rows.keys()
        assert all(0 <= row["recall@50"] <= 1 for row in rows.values())
    assert protocol.replace("_", " ") in prismrec(tmp_path, "report").stdout.lower().replace("-", " ")


def test_logs_without_times_run_to_the_end(tmp_path: Path) -> None:
    """Two columns and no items: every model is told the order alone, and the tables are time-free."""
    rng = random.Random(0)
    rows = ["u,i"]
    for user in range(150):
        liked = rng.sample(range(6), 2)
        rows += [f"u{user},i{12 * rng.choice(liked) + rng.randrange(12)}" for _ in range(rng.randrange(8, 30))]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "logs.csv").write_text("\n".join(rows))
    files = "data_validation.files"
    source = {
        "data_validation.source": "files", "data_validation.data_root": tmp_path, "data_validation.folder": "shop",
        f"{files}.interactions.path": "logs.csv", f"{files}.interactions.columns.user_id": "u",
        f"{files}.interactions.columns.item_id": "i", f"{files}.interactions.columns.timestamp": "null",
        f"{files}.items.path": "null",
    }  # fmt: skip
    parameters = ",".join([SMALL, *(f"{key}={value}" for key, value in source.items())])
    stages = f"data_validation,sequence_building,{MODELS}"
    done = prismrec(tmp_path, "run", "--params", parameters, "--pipelines", stages)
    assert done.returncode == 0, done.stderr
    figures = json.loads(prismrec(tmp_path, "report", "--json").stdout)
    assert {row["time"] for row in figures["models"].values()} == {"free"}
    assert {"hymirec", "gemirec", "sasrec_transitions"} <= figures["models"].keys()
    assert not [name for name in figures["models"] if name.endswith("_time_free")]
    assert "there are none" in figures["left_out"]["recent_popularity"]
    assert {point["model"] for point in figures["interest_curve"]} >= {"hymirec", "gemirec"}
    refused = prismrec(
        tmp_path, "run", "--pipelines", "sequence_building", "--params", "sequence_building.protocol=global_time"
    )
    assert refused.returncode == 1
    assert "no times" in refused.stderr
