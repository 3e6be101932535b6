from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from yolo_uncert.functional import conformal as module
from yolo_uncert.functional.calibrators import Temperature
from yolo_uncert.functional.conformal import Conformal, boxes_needed, gaussian_quantile


def scores(n, columns=1):
    """Residuals 1, 2 ... n of sigma 1, shuffled."""
    residual = np.repeat(np.arange(1.0, n + 1)[:, None], columns, axis=1)
    return np.random.default_rng(0).permuted(residual, axis=0) * [(-1) ** i for i in range(columns)]


@pytest.mark.parametrize(
    ("n", "level", "rank"),
    [
        (9, 0.9, 9),  # 10 * 0.9 = 9
        (10, 0.9, 10),  # 11 * 0.9 = 9.9
        (19, 0.9, 18),
        (99, 0.07, 7),  # 100 * 0.07 = 7.000000000000001 in binary
        (99, 0.01, 1),
        (99, 0.99, 99),
        (100, 0.5, 51),  # 101 * 0.5 = 50.5
        (1, 0.5, 1),
        (19, 0.15000000000000002, 3),  # as np.linspace(0.05, 0.95, 19) has it
    ],
)
def test_quantile_is_the_score_of_the_finite_sample_rank(n, level, rank):
    residual = scores(n)
    assert Conformal.fit(residual, np.ones_like(residual)).quantile(level) == pytest.approx([rank])


@pytest.mark.parametrize(
    ("level", "needed"),
    [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99), (0.999, 999), (0.9999, 9999), (0.85, 6), (0.1, 1)],
)
def test_boxes_needed(level, needed):
    # ceil(1 / alpha) - 1: 1 / 0.15 = 6.67 -> 6
    assert boxes_needed(level) == needed
    enough = Conformal.fit(np.ones((needed, 1)), np.ones((needed, 1)))
    assert enough.quantile(level) == pytest.approx([1.0])
    if needed > 1:
        few = Conformal.fit(np.ones((needed - 1, 1)), np.ones((needed - 1, 1)))
        with pytest.raises(
            ValueError, match=f"needs a calibration by {needed} boxes, it had {needed - 1}: the largest"
        ):
            few.quantile(level)


def test_a_level_next_to_one_is_out_of_reach():
    with pytest.raises(ValueError, match="needs a calibration by 999999999 boxes"):
        Conformal.fit(scores(9), np.ones((9, 1))).quantile(1 - 1e-15)


def test_boxwise_is_the_quantile_of_the_largest_score_of_a_box():
    residual = np.array([[1.0, -5.0], [2.0, 0.5], [-3.0, 3.5], [4.0, 1.0]])
    found = Conformal.fit(residual, np.array([[1.0, 2.0]] * 4))
    # per coordinate 1 2 3 4 and 0.25 0.5 1.75 2.5; the larger of each box 2.5 2 3 4
    assert found.quantile(0.6) == pytest.approx([3.0, 1.75]), "rank ceil(5 * 0.6) = 3"
    assert found.quantile(0.4, boxwise=True) == pytest.approx([2.5, 2.5]), "rank 2 of 2 2.5 3 4"


def test_largest_level_is_named_and_works():
    found = Conformal.fit(scores(6), np.ones((6, 1)))
    assert found.max_level == pytest.approx(6 / 7)
    with pytest.raises(
        ValueError, match=r"level 0.9 needs a calibration by 9 boxes, it had 6: the largest level is 0.8571"
    ):
        found.quantile(0.9)
    assert found.quantile(0.8571) == pytest.approx([6.0])


@pytest.mark.parametrize("level", [0, 1, -0.1, 1.5, float("nan")])
def test_levels_are_probabilities(level):
    found = Conformal.fit(scores(9), np.ones((9, 1)))
    for call in (found.quantile, lambda p: gaussian_quantile(p, 4)):
        with pytest.raises(ValueError, match="level must be between 0 and 1"):
            call(level)


@pytest.mark.parametrize("n", [50, 500])
@pytest.mark.parametrize("level", [0.68, 0.9])
def test_coverage_over_random_splits_is_nominal(n, level):
    """Heavy-tailed, correlated residuals of sigmas that are wrong by a factor which depends on sigma.

    Of exchangeable boxes the mean coverage is rank / (n + 1), which exceeds the level by less than 1 / (n + 1).
    """
    rng = np.random.default_rng(7)
    sigma = np.exp(rng.normal(size=(20000, 4)))
    shared = rng.standard_t(3, size=(20000, 1))
    residual = sigma**1.3 * (shared + rng.standard_t(3, size=sigma.shape)) + 0.2
    single, together = [], []
    for _ in range(200):
        rows = rng.permutation(len(sigma))
        fitted, other = rows[:n], rows[n : n + 4000]
        found = Conformal.fit(residual[fitted], sigma[fitted])
        size = np.abs(residual[other]) / sigma[other]
        single.append((size <= found.quantile(level)).mean())
        together.append((size <= found.quantile(level, boxwise=True)).all(1).mean())
    exact = np.ceil((n + 1) * level - 1e-9) / (n + 1)
    assert exact - level < 1 / (n + 1)
    # Four coordinates of 200 splits of 50: standard error about sqrt(0.22 / 51 / 200) = 0.5 %, of 500 0.15 %.
    tolerance = 0.005 if n == 500 else 0.01
    assert np.mean(single) == pytest.approx(exact, abs=tolerance)
    assert np.mean(together) == pytest.approx(exact, abs=tolerance)
    if n == 500:
        assert np.mean(single) == pytest.approx(level, abs=0.005)
        assert np.mean(together) == pytest.approx(level, abs=0.005)


def test_coverage_holds_on_top_of_factors_from_the_same_boxes():
    rng = np.random.default_rng(3)
    residual = rng.standard_t(4, size=(20000, 5)) * [1, 2, 3, 0.5, 0.1]
    sigma = np.ones_like(residual)
    single, together = [], []
    for _ in range(200):
        rows = rng.permutation(len(sigma))
        fitted, other = rows[:500], rows[500:4500]
        scale = Temperature.fit(residual[fitted], sigma[fitted])
        found = Conformal.fit(residual[fitted], sigma[fitted] * scale.factor(sigma[fitted]))
        size = np.abs(residual[other]) / (sigma[other] * scale.factor(sigma[other]))
        single.append((size <= found.quantile(0.9)).mean())
        together.append((size <= found.quantile(0.9, boxwise=True)).all(1).mean())
    assert np.mean(single) == pytest.approx(0.9, abs=0.005)
    assert np.mean(together) == pytest.approx(0.9, abs=0.005)


def test_large_sets_are_compressed_to_wider_intervals_only(monkeypatch):
    rng = np.random.default_rng(0)
    residual = rng.normal(size=(5003, 2))
    sigma = np.ones_like(residual)
    monkeypatch.setattr(module, "TABLE", 10**6)
    whole = Conformal.fit(residual, sigma)
    monkeypatch.setattr(module, "TABLE", 1000)
    found = Conformal.fit(residual, sigma)
    assert len(found.ranks) == 1000
    assert (found.ranks[0], found.ranks[-1]) == (1, 5003)
    covered = []
    for level in np.linspace(0.001, 0.9998, 300):
        wide, exact = found.quantile(level), whole.quantile(level)
        assert (wide >= exact).all()
        covered.append((np.abs(residual) <= wide).mean() - (np.abs(residual) <= exact).mean())
    assert max(covered) < 6 / 5003, "the next rank that is kept is at most five further"


def test_round_trip_through_json():
    rng = np.random.default_rng(0)
    found = Conformal.fit(rng.normal(size=(1500, 5)), np.ones((1500, 5)))
    text = json.dumps(found.as_dict())
    assert len(text) < 100_000
    again = Conformal.from_dict(json.loads(text))
    assert again.n == 1500
    for level in (0.1, 0.683, 0.9, 0.999):
        for boxwise in (False, True):
            assert np.array_equal(again.quantile(level, boxwise), found.quantile(level, boxwise))


def test_coverage_by_hand():
    """Scores 1 ... 9 of both coordinates, largest of a box 1 ... 9: at level 0.5 half a width of 5 sigma."""
    fitted = Conformal.fit(np.repeat(np.arange(1.0, 10)[:, None], 2, axis=1), np.ones((9, 2)))
    residual, sigma = np.array([[4.0, -6], [-10, 10], [3, 2], [5, 20]]), np.array([[1.0, 1], [2, 2], [1, 1], [1, 2]])
    np.testing.assert_allclose(fitted.coverage(residual, sigma, [0.5, 0.9]), [[1, 0.5], [1, 0.75]])
    np.testing.assert_allclose(fitted.coverage(residual, sigma, [0.5, 0.9], boxwise=True), [0.5, 0.75])
    assert fitted.coverage(residual, sigma, []).shape == (0, 2)


def test_coverage_floors_sigma_as_the_fit_does():
    tiny, small = np.full((40, 1), 1e-6), np.linspace(1e-5, 4e-4, 40)[:, None]
    assert Conformal.fit(small, tiny).coverage(small, tiny, [0.5])[0] == pytest.approx(0.525)


def test_a_sigma_of_zero_is_floored():
    found = Conformal.fit(np.array([[0.002]]), np.zeros((1, 1)))
    assert found.quantile(0.5) == pytest.approx([2.0]), "0.002 over SIGMA_MIN"


def test_gaussian_quantiles():
    assert gaussian_quantile(0.9, 4) == pytest.approx(stats.norm.ppf([0.95] * 4))
    z = gaussian_quantile(0.9, 5, boxwise=True)
    # Five independent coordinates are inside together with the probability asked for.
    assert np.prod(stats.norm.cdf(z) - stats.norm.cdf(-z)) == pytest.approx(0.9)


def test_prints_without_its_table():
    assert repr(Conformal.fit(np.ones((9, 4)), np.ones((9, 4)))) == "Conformal(n=9)"
