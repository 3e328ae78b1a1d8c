import math

import numpy as np
import pytest

from alignloop.errors import DataError
from alignloop.evaluation.overoptimisation import fit_overoptimisation


def test_best_of_n_form_is_recovered_with_its_peak():
    kl = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 9.0])
    d = np.sqrt(kl)
    fit = fit_overoptimisation(kl, d * (1.2 - 0.3 * d), "best_of_n")
    assert (fit.alpha, fit.beta, fit.r_squared) == pytest.approx((1.2, 0.3, 1.0), abs=1e-9)
    # d = α/2β = 2
    assert fit.peak_kl == pytest.approx(4.0, abs=1e-8)
    assert fit.beyond_peak
    assert fit([0.0, 4.0]) == pytest.approx([0.0, 2 * 0.6])


def test_rl_form_is_recovered_with_its_peak():
    kl = np.array([0.0, 0.2, 1.0, 3.0, 10.0])
    d = np.sqrt(kl[1:])
    gain = np.r_[0.0, d * (0.8 - 0.4 * np.log(d))]
    fit = fit_overoptimisation(kl, gain, "rl")
    assert (fit.alpha, fit.beta, fit.r_squared) == pytest.approx((0.8, 0.4, 1.0), abs=1e-9)
    # dR/dd = α − β ln d − β = 0 at d = e^{α/β − 1} = e
    assert fit.peak_kl == pytest.approx(math.e**2, abs=1e-7)
    assert fit.beyond_peak
    assert fit(0.0) == 0.0
    nearby = fit(np.array([0.95, 1.0, 1.05]) * fit.peak_kl)
    assert nearby[1] == nearby.max()


def test_the_two_forms_differ():
    kl = np.linspace(0.1, 10, 30)
    gain = np.sqrt(kl) * (0.8 - 0.4 * np.log(np.sqrt(kl)))
    assert fit_overoptimisation(kl, gain, "best_of_n").r_squared < 0.99


def test_a_gain_that_only_rises_has_no_peak():
    kl = np.array([1.0, 4.0, 9.0])
    fit = fit_overoptimisation(kl, [1.0, 2.2, 3.6], "best_of_n")
    assert fit.peak_kl is None
    assert not fit.beyond_peak


@pytest.mark.parametrize(
    ("kl", "gain", "form"),
    [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "ppo"),
        ([1.0, 2.0], [1.0, 2.0], "rl"),
        ([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], "rl"),
        ([1.0, 2.0, 3.0], [1.0, 2.0], "rl"),
        ([1.0, 2.0, -3.0], [1.0, 2.0, 3.0], "rl"),
        ([1.0, 2.0, 3.0], [1.0, 2.0, math.nan], "rl"),
    ],
)
def test_wrong_input(kl, gain, form):
    with pytest.raises(DataError):
        fit_overoptimisation(kl, gain, form)
