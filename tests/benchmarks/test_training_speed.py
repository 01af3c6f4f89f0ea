"""Benchmarks of training run at a small size and write figures of the right kind; how fast it is, no test says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.peers.exchange import write_exchange

from benchmarks import gpu_ml1m, steps, training_speed
from prismrec.parameters.llm_recommender import LLMRecommenderParameters
from prismrec.training.speed import NO_WORK

SMALL = {"hidden": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16, "intermediate": 48}


def test_histories_are_as_long_as_those_of_ml1m() -> None:
    """MovieLens-1M: 6,040 users, 1.0 million events, median 96, none below 20 (18 after the item core)."""
    exchange = steps.like_ml1m()
    lengths = exchange.offsets[1:] - exchange.offsets[:-1]
    assert len(lengths) == 6040
    assert 0.9e6 < lengths.sum() < 1.1e6
    assert 85 < sorted(lengths)[3020] < 107
    assert lengths.min() == 20
    assert 0 <= exchange.items.min() < exchange.items.max() < exchange.num_items
    assert (exchange.train_end_U < exchange.test_U).all()


def test_little_of_what_the_recommender_reads_is_padding() -> None:
    """Of an epoch's slots at the settings of ml1m, on histories of its lengths: the bar is a tenth."""
    settings = steps.load_parameters("ml1m")
    parameters = LLMRecommenderParameters.model_validate(settings["llm_recommender"])
    task = steps.recommender_task(parameters, settings["lightweight_encoder"], steps.like_ml1m())
    work = sum(map(task.size, task.epoch(np.random.default_rng(0))), NO_WORK)
    assert work.events > 500_000
    assert 1 - work.events / work.slots < 0.1


def test_speeds_of_a_small_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both of our models in this process; what another process prints is read the same way."""

    def run(way: str, data: Path, changes: dict[str, Any], folder: Path) -> dict[str, Any]:
        asked = {**training_speed.asked_of(way, changes)}
        out = folder / "out.json"
        arguments = ["--data", str(data), "--asked", json.dumps(asked), "--out", str(out)]
        training_speed.main(arguments)
        return dict(json.loads(out.read_text()))

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(training_speed, "run", run)
    write_exchange(tmp_path / "data", steps.like_ml1m(40))
    ours = [training_speed.OURS, "prismrec LLM recommender, bf16"]
    output = tmp_path / "speed.json"
    options = ["--rounds", "1", "--steps", "1", "--budget", "0.01", "--output", str(output)]
    training_speed.main(["--data", str(tmp_path / "data"), "--ways", *ours, *options])
    report = json.loads(output.read_text())
    for figures in report["speeds"].values():
        assert figures["positions_per_second"] == max(figures["rounds"]) > 0
        assert 0 <= figures["padding_waste"] < 1
        assert 0 < figures["model_flop_utilisation"] < 1
    assert 0 < report["speeds"][ours[1]]["matching_share"] < 0.05, "the bar; at full size it is 1.4 %"
    assert len(report["curves"][training_speed.OURS]) == 1
    assert report["curves"][training_speed.OURS][0]["seconds"] > 0


def test_time_to_equal_is_read_from_the_curves() -> None:
    def curve(*values: float) -> list[dict[str, float]]:
        return [{"seconds": 10.0 * (place + 1), "ndcg@10": value} for place, value in enumerate(values)]

    found = {training_speed.OURS: curve(0.1, 0.15, 0.2), "slow": curve(0.1, 0.14, 0.13), "better": curve(0.3)}
    equal = training_speed.to_equal(found)
    assert equal["slow"] == {"ndcg@10": 0.14, "seconds": 20.0, "ours": 20.0}
    assert equal["better"] == {"ndcg@10": 0.3, "seconds": 10.0, "ours": None}
    table = training_speed.as_table({"speeds": {}, "to_equal": equal})
    assert "better 10 s, ours never" in table


def test_gpu_benchmark_runs_on_a_cpu_and_goes_on_where_it_was(tmp_path: Path) -> None:
    output = tmp_path / "gpu.json"
    changes = [f"{name}={value}" for name, value in {**SMALL, "recent_length": 8, "long_length": 4}.items()]
    arguments = ["--cells", "steps", "--batches", "2", "4", "--steps", "1", "--output", str(output)]
    arguments += ["--set", *changes, "compile=false"]
    gpu_ml1m.main(arguments)
    report = json.loads(output.read_text())
    assert set(report) == {"steps, checkpointing off", "steps, checkpointing on"}
    for name, cell in report.items():
        assert set(cell["batch_size"]) == {"2", "4"}
        assert cell["sizes"]["gradient_checkpointing"] == name.endswith("on")
        assert cell["sizes"]["kv_heads"] == 1
        best = max(found["model_flop_utilisation"] for found in cell["batch_size"].values())
        assert cell["model_flop_utilisation"] == best > 0
    report["steps, checkpointing on"]["model_flop_utilisation"] = 0.5
    output.write_text(json.dumps(report))
    gpu_ml1m.main(arguments)
    assert json.loads(output.read_text()) == report, "nothing runs twice"
    with pytest.raises(SystemExit, match="hiden=3"):
        gpu_ml1m.main(["--output", str(tmp_path / "other.json"), "--set", "hiden=3"])


def test_the_environment_gpu_is_ml1m_with_a_backbone_of_qwen3_06b() -> None:
    gpu, ml1m = steps.load_parameters("gpu"), steps.load_parameters("ml1m")
    recommender, usual = gpu.pop("llm_recommender"), ml1m.pop("llm_recommender")
    assert gpu == ml1m, "the other stages are those of ml1m"
    shape = ["hidden", "layers", "heads", "kv_heads", "head_dim", "intermediate"]
    assert [recommender[name] for name in shape] == [1024, 28, 16, 8, 128, 3072]
    economies = {"compile", "gradient_checkpointing", "training"}
    others = set(usual) - set(shape) - economies
    assert {name: recommender[name] for name in others} == {name: usual[name] for name in others}
