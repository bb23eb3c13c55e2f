"""How often a tenant gets a model of its own by chance, and how often a true lead is found.

python bench/multiplicity.py                20 repetitions of 600 tenants; ten minutes on two cores
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product

import numpy as np
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score

from jollyboat.training.evaluate import lead_with_p
from jollyboat.training.own_models import CHANCE

TENANTS, RESAMPLES, SPREAD = 600, 200, 1.3
LED = 60  # tenants with a true lead, in the second part
WORSE = {"equal": 0.0, "slightly worse": 0.2, "worse": 0.7}  # more noise in the own log-odds
LEADS, SIZES = (0.05, 0.1), (100, 300, 800)  # average precision, holdout rows


def draw(rng: np.random.Generator, rows: int, rate: float, own: float, shared: float) -> tuple:
    """Labels and the probabilities of both models: the true log-odds plus noise of these sizes."""
    odds = logit(rate) + rng.normal(0, SPREAD, rows) - SPREAD**2 / 4
    label = rng.random(rows) < expit(odds)
    models = (expit(odds + rng.normal(0, noise, rows)) for noise in (own, shared))
    return label.astype(int), *models


def p_of_chance(seed: int) -> list[float]:
    """The p-value of one tenant whose own model has no lead."""
    rng = np.random.default_rng(seed)
    rows = round(np.exp(rng.uniform(np.log(30), np.log(800))))
    noise, rate = rng.choice([0.3, 1.0, 2.0]), rng.uniform(0.03, 0.3)
    own = np.hypot(noise, rng.choice(list(WORSE.values())))
    return lead_with_p(*draw(rng, rows, rate, own, noise), RESAMPLES, 0)["p"]


def p_of_lead(rows: int, noise: float, seed: int) -> float:
    """The p-value of one tenant whose own model knows the true log-odds; the shared one errs."""
    rng = np.random.default_rng(seed)
    return lead_with_p(*draw(rng, rows, 0.15, 0.0, noise), RESAMPLES, 0)["p"]


def noise_of(lead: float) -> float:
    """The shared model's noise with which the true log-odds lead by this average precision."""
    sizes, leads = np.linspace(0.1, 4, 40), []
    for size in sizes:
        label, *models = draw(np.random.default_rng(0), 200_000, 0.15, 0.0, size)
        own, shared = (average_precision_score(label, model) for model in models)
        leads.append(own - shared)
    return float(np.interp(lead, leads, sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=20)
    repetitions = parser.parse_args().repetitions
    with ProcessPoolExecutor() as pool:
        seeds = range(repetitions * TENANTS)
        p = np.reshape(list(pool.map(p_of_chance, seeds, chunksize=50)), (repetitions, TENANTS))
        shares = (p <= CHANCE).mean(axis=1)
        print(f"no lead: {np.mean(shares):.3%} of the tenants get a model of their own", end="")
        print(f" (most in one repetition: {max(shares):.2%})")
        for limit in (0.05, 0.001):
            print(f"no lead: p is below {limit:g} for {(p < limit).mean():.3%} of the tenants")
        for lead, rows in product(LEADS, SIZES):
            with_lead = partial(p_of_lead, rows, noise_of(lead))
            q = np.array(list(pool.map(with_lead, range(LED * repetitions), chunksize=20)))
            print(f"lead {lead:+.2f}, {rows} rows: {(q <= CHANCE).mean():.0%} get one", flush=True)


if __name__ == "__main__":
    main()
