"""Which peers there are, with the settings of each, and where these come from.

The first settings of a peer are published ones; the others, tried in this order as far as the tuning budget goes, vary
size, dropout, learning rate and the like around them (our choice). Every peer has `SETTINGS` of them. RecTools'
transformers differ from what is published in two ways that help them on a CPU: bf16 autocast, as ours have, and, but
for the second settings, the whole catalogue in the loss, which costs a fraction of negatives drawn for each position.
"long" and "short" are kinds of data sets (`exchange.LONG_HISTORIES`). Of a model that several libraries have, one
stands here: SASRec is RecTools', which trains on every position at once where RecBole's trains on every prefix, and
SINE RecBole's.

Where the settings come from:
- RecTools SASRec and eSASRec: the leave-one-out configurations of github.com/blondered/transformer_benchmark
  (ML-1M; Beauty), which goes with the eSASRec paper. HSTU: RecTools' HSTU tutorial (ML-1M; for short histories only
  the length differs). BERT4Rec: the library's defaults at the size of the SASRec configuration. EASE: its default λ.
- RecBole: the library's default properties of each model; length 50, which is its default too.
- torch-rechub: the ComiRec paper's sizes (64-d, 10 negatives, batch 128, 4 interests); the second settings are those
  of the library's examples.
- RecBole SINE, third settings: what comments in the library's own model name for MovieLens and from the paper.
- implicit: the library's defaults.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Settings = dict[str, Any]
SETTINGS = 4  # a peer has; the most trials there can be
TRAIN_ONLY = "training events; histories of the test hold the validation event too"
ALL_BEFORE = "settings chosen on training events, then fitted on everything before the test target"

_RECTOOLS_LONG: Settings = {
    "session_max_len": 200, "n_factors": 64, "n_blocks": 2, "n_heads": 1, "dropout_rate": 0.1, "lr": 0.001,
    "batch_size": 128, "loss": "softmax", "n_negatives": 256, "precision": "bf16-mixed",
}  # fmt: skip
_RECTOOLS_SHORT: Settings = {
    **_RECTOOLS_LONG,
    "session_max_len": 50,
    "n_factors": 256,
    "n_blocks": 1,
    "dropout_rate": 0.2,
}
_HSTU: Settings = {
    "session_max_len": 200, "n_factors": 50, "n_blocks": 2, "n_heads": 1, "dropout_rate": 0.2, "lr": 0.001,
    "batch_size": 128, "loss": "softmax", "n_negatives": 128, "logits_t": 0.05, "precision": "bf16-mixed",
}  # fmt: skip
_BERT4REC: Settings = {"mask_prob": 0.15, "n_heads": 2}
_RECBOLE: Settings = {"MAX_ITEM_LIST_LENGTH": 50, "train_batch_size": 2048, "learning_rate": 0.001, "loss_type": "CE"}
_RECHUB: Settings = {"embed_dim": 64, "negatives": 10, "batch_size": 128, "length": 50, "interests": 4, "lr": 1e-3,
                     "weight_decay": 1e-6}  # fmt: skip
_RECHUB_EXAMPLE: Settings = {**_RECHUB, "embed_dim": 16, "negatives": 3, "batch_size": 256}


def _without(settings: Settings, *names: str) -> Settings:
    return {key: value for key, value in settings.items() if key not in names}


def _varied(settings: Settings, *changes: Settings) -> list[Settings]:
    return [settings, *({**settings, **change} for change in changes)]


class Peer(NamedTuple):
    """One model of one package.

    Attributes:
        label: name in tables.
        package: the distribution whose version is recorded.
        module: module of this folder that runs it.
        environment: folder of the virtual environment it runs in.
        family: "neural" peers get the wall-clock budget; "fitted" ones end by themselves.
        time: "free", or "aware" where the times of events or of the request are read.
        trains_on: which events it learns from.
        long, short: settings to try, published ones first.
    """

    label: str
    package: str
    module: str
    environment: str
    family: str
    time: str
    trains_on: str
    long: list[Settings]
    short: list[Settings]

    def settings(self, kind: str, trials: int) -> list[Settings]:
        """The settings that so many trials try.

        Raises:
            SystemExit: if there are fewer settings than trials.
        """
        known = self.long if kind == "long" else self.short
        if trials > len(known):
            raise SystemExit(f"{self.label} has {len(known)} settings to try; --trials {trials} is more.")
        return known[:trials]


def _rectools(label: str, long: list[Settings], short: list[Settings], time: str = "free") -> Peer:
    return Peer(f"RecTools {label}", "RecTools", "rectools_peers", ".venv-peers", "neural", time, TRAIN_ONLY,
                long, short)  # fmt: skip


def _recbole(label: str, *changes: Settings) -> Peer:
    settings = _varied(_RECBOLE, *changes)
    return Peer(f"RecBole {label}", "recbole", "recbole_peers", ".venv-recbole", "neural", "free", TRAIN_ONLY,
                settings, settings)  # fmt: skip


def _rechub(label: str, settings: list[Settings]) -> Peer:
    return Peer(f"torch-rechub {label}", "torch-rechub", "rechub_peers", ".venv-peers", "neural", "free", TRAIN_ONLY,
                settings, settings)  # fmt: skip


def _fitted(label: str, package: str, module: str, settings: list[Settings]) -> Peer:
    return Peer(label, package, module, ".venv-peers", "fitted", "free", ALL_BEFORE, settings, settings)


_SAMPLED: Settings = {"loss": "sampled_softmax"}
_SASREC = (_SAMPLED, {"n_factors": 128, "dropout_rate": 0.3}, {"dropout_rate": 0.3})
_SASREC_SHORT = (_SAMPLED, {"dropout_rate": 0.5}, {"n_factors": 128, "dropout_rate": 0.5})
_HSTU_CHANGES = (_SAMPLED, {"n_factors": 64, "n_heads": 2}, {"dropout_rate": 0.5})
_BERT4REC_CHANGES = ({"mask_prob": 0.3}, {"dropout_rate": 0.3}, {"mask_prob": 0.3, "dropout_rate": 0.3})
_FASTER: Settings = {"learning_rate": 0.003}
_RECHUB_CHANGES = [_RECHUB, _RECHUB_EXAMPLE, {**_RECHUB, "lr": 3e-3}, {**_RECHUB, "interests": 2}]

PEERS: dict[str, Peer] = {
    "rectools_sasrec": _rectools(
        "SASRec", _varied(_RECTOOLS_LONG, *_SASREC), _varied(_RECTOOLS_SHORT, *_SASREC_SHORT)
    ),
    "rectools_esasrec": _rectools(
        "eSASRec (LiGR)",
        _varied({**_RECTOOLS_LONG, "use_key_padding_mask": True}, *_SASREC),
        _varied({**_RECTOOLS_SHORT, "use_key_padding_mask": True}, *_SASREC_SHORT),
    ),
    "rectools_bert4rec": _rectools(
        "BERT4Rec",
        _varied({**_without(_RECTOOLS_LONG, "n_negatives"), **_BERT4REC}, *_BERT4REC_CHANGES),
        _varied({**_without(_RECTOOLS_SHORT, "n_negatives"), **_BERT4REC}, *_BERT4REC_CHANGES),
    ),
    "rectools_hstu": _rectools(
        "HSTU without time", _varied(_HSTU, *_HSTU_CHANGES), _varied({**_HSTU, "session_max_len": 50}, *_HSTU_CHANGES)
    ),
    "rectools_hstu_time": _rectools(
        "HSTU with the request's time",
        _varied(_HSTU, *_HSTU_CHANGES),
        _varied({**_HSTU, "session_max_len": 50}, *_HSTU_CHANGES),
        "aware",
    ),
    "rectools_ease": _fitted(
        "RecTools EASE",
        "RecTools",
        "rectools_peers",
        _varied({"regularization": 500.0}, {"regularization": 200.0}, {"regularization": 1000.0},
                {"regularization": 2000.0}),
    ),
    "recbole_gru4rec": _recbole(
        "GRU4Rec", _FASTER, {**_FASTER, "dropout_prob": 0.5}, {"embedding_size": 128, "hidden_size": 256}
    ),
    "recbole_sine": _recbole(
        "SINE", _FASTER, {"prototype_size": 500, "interest_size": 4, "reg_loss_ratio": 0.1},
        {**_FASTER, "reg_loss_ratio": 0.1},
    ),
    "rechub_comirec_sa": _rechub("ComiRec-SA", _RECHUB_CHANGES),
    "rechub_mind": _rechub("MIND", _RECHUB_CHANGES),
    "implicit_als": _fitted(
        "implicit ALS",
        "pm-implicit",
        "implicit_peers",
        _varied({"factors": 100, "regularization": 0.01, "alpha": 1.0, "iterations": 15},
                {"regularization": 10.0}, {"factors": 64, "regularization": 10.0, "alpha": 10.0},
                {"factors": 200, "regularization": 10.0}),
    ),
    "implicit_bpr": _fitted(
        "implicit BPR",
        "pm-implicit",
        "implicit_peers",
        _varied({"factors": 100, "learning_rate": 0.01, "regularization": 0.01, "iterations": 100},
                {"learning_rate": 0.05}, {"learning_rate": 0.05, "iterations": 300},
                {"learning_rate": 0.05, "factors": 64}),
    ),
    "implicit_item_knn": _fitted(
        "implicit item-kNN (cosine)",
        "pm-implicit",
        "implicit_peers",
        _varied({"K": 20}, {"K": 100}, {"K": 500}, {"K": 50}),
    ),
}  # fmt: skip
