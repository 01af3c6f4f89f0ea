"""Item tower: the spectral start, whole-item dropout, cold items."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.small import randomise
from prismrec.models import load_model
from prismrec.models.item_tower import RIDGE, ItemTower, ItemTowerConfig

N, E, D = 50, 10, 6
WITHOUT_TRANSITIONS, COLD = [3, 4], [5, 6, 7]


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def started() -> tuple[ItemTower, torch.Tensor, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    text = unit(rng.standard_normal((N, E))).astype(np.float32)
    spectral = unit(text @ rng.standard_normal((E, D)) + 0.3 * rng.standard_normal((N, D))).astype(np.float32)
    spectral[WITHOUT_TRANSITIONS + COLD] = 0
    trained = np.ones(N, dtype=bool)
    trained[COLD] = False
    tower = ItemTower(ItemTowerConfig(N, E, D))
    tower.start_from(torch.as_tensor(text), spectral, trained)
    return tower, torch.as_tensor(text), spectral, trained


Started = tuple[ItemTower, torch.Tensor, np.ndarray, np.ndarray]


def test_the_start_reproduces_the_spectral_vectors(started: Started) -> None:
    tower, text, spectral, trained = started
    with_transitions = np.linalg.norm(spectral, axis=1) > 0
    for keep in (None, torch.as_tensor(trained)):
        found = tower(text, keep).detach().numpy()
        np.testing.assert_allclose(found[with_transitions], spectral[with_transitions], atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_start_from_noise_knows_no_transitions(started: Started) -> None:
    spectral_start, text, spectral, trained = started
    tower = ItemTower(ItemTowerConfig(N, E, D))
    tower.start_from_noise(text, trained)
    residual = tower.residual_ND.detach().numpy()
    assert not residual[COLD].any(), "a never-trained item has no residual of its own"
    assert np.unique(residual[trained]).size == residual[trained].size
    vectors = tower(text, torch.as_tensor(trained)).detach().numpy()
    assert np.abs((vectors * spectral).sum(1)).mean() < 0.7
    assert torch.equal(tower.neighbours_NM, spectral_start.neighbours_NM)


def test_the_projection_is_the_ridge_regression(started: Started) -> None:
    """Of centred targets on centred texts, by stacking √λ rows under them."""
    tower, text, spectral, _ = started
    chosen = np.linalg.norm(spectral, axis=1) > 0
    x, y = text.double().numpy()[chosen], spectral.astype(np.float64)[chosen]
    mean_x, mean_y = x.mean(0), y.mean(0)
    weight, *_ = np.linalg.lstsq(
        np.vstack([x - mean_x, np.sqrt(RIDGE) * np.eye(E)]),
        np.vstack([y - mean_y, np.zeros((E, D))]),
        rcond=None,
    )
    predicted = (text.double().numpy() - mean_x) @ weight + mean_y
    np.testing.assert_allclose(tower.projection(text).detach().numpy(), predicted, atol=1e-5)


def unit_t(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=-1)


def test_items_without_behaviour_have_no_residual_of_their_own(started: Started) -> None:
    tower = started[0]
    assert torch.equal(tower.residual_ND[WITHOUT_TRANSITIONS + COLD], torch.zeros(5, D))


def test_untrained_items_borrow_from_the_trained_items_of_the_nearest_texts(started: Started) -> None:
    """The formula, item by item and in plain words."""
    tower, text, _, trained = started
    randomise(tower)
    found = tower(text, torch.as_tensor(trained))
    for item in COLD:
        cosine = unit_t(text) @ unit_t(text)[item]
        nearest = [j for j in cosine.argsort(descending=True).tolist() if trained[j]][:16]
        weight = (cosine[nearest] * tower.log_sharpness.exp()).softmax(0)
        lent = (weight[:, None] * tower.residual_ND[nearest]).sum(0)
        expected = unit_t(tower.projection(text[item]) + tower.shift_D + tower.gain * lent)
        torch.testing.assert_close(found[item], unit_t(expected + tower.lift_D))


def test_dropped_items_lose_their_own_residual_and_no_other_item_moves(started: Started) -> None:
    tower, text, _, _ = started
    keep = torch.ones(N, dtype=torch.bool)
    keep[10:20] = False
    full, dropped = tower(text), tower(text, keep)
    torch.testing.assert_close(dropped[keep], full[keep])
    assert (full[~keep] - dropped[~keep]).norm(dim=1).min() > 0.01
    with torch.no_grad():
        tower.residual_ND[10] += 5.0
    assert torch.equal(tower(text, keep)[10], dropped[10]), "an item borrows from others, never from itself"


def test_a_lift_moves_untrained_items_alone(started: Started) -> None:
    tower, text, _, trained = started
    keep = torch.as_tensor(trained)
    before, direction = tower(text, keep), unit_t(torch.randn(D))
    tower.lift_D.copy_(0.3 * direction)
    after = tower(text, keep)
    assert torch.equal(after[keep], before[keep])
    assert (after[COLD] @ direction > before[COLD] @ direction).all()
    torch.testing.assert_close(after.norm(dim=1), torch.ones(N))


def test_a_tower_without_neighbours_follows_the_text() -> None:
    """One trained item at most: there is nobody to borrow from."""
    tower, text = ItemTower(ItemTowerConfig(5, E, D)), torch.randn(5, E)
    tower.find_neighbours(text, torch.zeros(5, dtype=torch.bool))
    torch.nn.init.normal_(tower.residual_ND)
    torch.testing.assert_close(tower(text, torch.zeros(5, dtype=torch.bool)), unit_t(tower.projection(text)))


def test_save_and_load(started: Started, tmp_path: Path) -> None:
    tower, text, _, _ = started
    randomise(tower)
    tower.save(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, ItemTower)
    assert loaded.config == tower.config
    assert torch.equal(loaded(text), tower(text))


def test_a_text_alone_gives_the_vector_of_an_untrained_item(started: Started) -> None:
    tower, text, _, trained = started
    randomise(tower)
    expected = tower(text, torch.as_tensor(trained))
    found = tower.of_texts(text[COLD], text, torch.as_tensor(trained))
    assert torch.allclose(found, expected[COLD], atol=1e-6)
    # A new text for a trained item leaves what its behaviour says.
    same = tower.retexted(text[:2], torch.tensor([0, 1]))
    assert torch.allclose(same, expected[:2], atol=1e-6)
    assert not torch.allclose(tower.retexted(text[2:4], torch.tensor([0, 1])), expected[:2], atol=1e-2)
