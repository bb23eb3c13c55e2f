"""XGBoost: many small trees on top of a logistic regression, which find thresholds and how features act together.

Choose it when rows are many and its lead over logistic regression is clear; it needs the most care to explain.
Settings: `increasing` (features that may never lower the score), `rounds` (trees at most), `patience` (rounds without
a gain on validation), `bags` (boosters of different seeds whose log-odds are averaged), and XGBoost's own parameters.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xgboost

from jollyboat.training.line import Line
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part, thin

USUAL = {"eta": 0.08, "max_depth": 5, "subsample": 0.8}
USUAL |= {"lambda": 2.0, "max_bin": 128, "seed": 0, "nthread": 1, "objective": "binary:logistic"}
USUAL |= {"base_score": 0.5}  # so that trees alone say nothing of the rate, which the line knows
INCREASING = ["cart_add_count", "visitor_past_outcome_count", "product_outcome_rate"]
LINE_ROWS = 100_000  # that the line is fitted on, evenly taken
POSITIVES_A_WEIGHT = 250  # of training, for each unit of min_child_weight: more rows bear leaves of more rows
MOST_FACTOR = 2.0  # by which calibration may multiply or divide log-odds
DOUBT = 0.05  # prior standard deviation of the factor's logarithm: few rows move it little

# what a search may try: lowest and highest
SEARCHED = {"max_depth": (2, 6), "eta": (0.02, 0.2), "min_child_weight": (1, 40), "lambda": (0.5, 30.0)}
SEARCHED |= {"subsample": (0.5, 1.0), "colsample_bytree": (0.3, 1.0)}


@dataclass(frozen=True)
class Trees:
    """Boosters that read the schema's matrix; the mean of their log-odds is added to the line's.

    Calibrated log-odds are that sum times `factor`, which is above 0, plus `shift`.
    """

    schema: FeatureSchema
    line: Line
    boosters: list[xgboost.Booster]
    factor: float = 1.0
    shift: float = 0.0


def fit(train: Part, validation: Part, schema: FeatureSchema, settings: dict[str, Any]) -> Trees:
    """Trees on the training rows, as many as lower the log loss on validation, and calibrated there."""
    model = _boost(train, validation, schema, settings)
    log_odds = _log_odds(model, schema.matrix(validation.features))
    return _calibrate(model, train, _find_factor(log_odds, validation.label))


def refit(model: Trees, rows: Part, schema: FeatureSchema, settings: dict[str, Any]) -> Trees:
    """As many trees as the model has, on these rows, with the factor that validation found."""
    again = _boost(rows, None, schema, settings | {"rounds": model.boosters[0].num_boosted_rounds()})
    return _calibrate(again, rows, model.factor)


def predict_proba(model: Trees, features: pd.DataFrame) -> np.ndarray:
    """The probability of the outcome for each row."""
    if not len(features):
        return np.empty(0)
    return 1 / (1 + np.exp(-_log_odds(model, model.schema.matrix(features))))


def explain(model: Trees, features: pd.DataFrame) -> pd.DataFrame:
    """What each feature moved a row's log-odds by: the line, and TreeSHAP (Lundberg et al., 2020), times the factor."""
    matrix = model.schema.matrix(features)
    rows = _rows(model.schema, matrix)
    moved = np.mean([booster.predict(rows, pred_contribs=True)[:, :-1] for booster in model.boosters], axis=0)
    moved = model.factor * (moved + model.line.add_up(matrix))
    return pd.DataFrame(moved, index=features.index, columns=model.schema.names)


def describe(model: Trees) -> str:
    """One sentence."""
    trees = sum(booster.num_boosted_rounds() for booster in model.boosters)
    told = f"{trees} small trees on top of a weighted sum, over {len(model.schema.names)} features"
    return f"{told}; calibrated on validation, by a factor of {model.factor:.2f}."


def save(model: Trees, folder: Path) -> None:
    """Writes model.ubj, model-1.ubj and so on (XGBoost's own format) and model.json into the folder."""
    for booster, name in zip(model.boosters, _names(len(model.boosters)), strict=True):
        booster.save_model(folder / name)
    stored = {"schema": model.schema.to_dict(), "boosters": len(model.boosters), "line": asdict(model.line)}
    stored["calibration"] = {"factor": model.factor, "shift": model.shift}
    (folder / "model.json").write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def load(folder: Path) -> Trees:
    """The model that `save` wrote, on one thread: more of them slow a server down."""
    stored = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    boosters = [xgboost.Booster({"nthread": 1}, model_file=folder / name) for name in _names(stored["boosters"])]
    schema, line = FeatureSchema.from_dict(stored["schema"]), Line(**stored["line"])
    return Trees(schema, line, boosters, **stored.get("calibration", {}))  # a champion may be older than calibration


def _boost(train: Part, validation: Part | None, schema: FeatureSchema, settings: dict[str, Any]) -> Trees:
    from jollyboat.training.candidates import logistic  # not at the top: trees predict without scikit-learn

    given = {"rounds": 600, "patience": 30, "bags": 3, "increasing": INCREASING} | USUAL
    given |= {"min_child_weight": max(5, train.label.sum() // POSITIVES_A_WEIGHT)} | settings
    rounds, patience, bags, increasing = (given.pop(name) for name in ("rounds", "patience", "bags", "increasing"))
    rises = [f.name in increasing and f.kind == "number" for f in schema.features]
    given["monotone_constraints"] = tuple(map(int, rises))
    few = thin(train, LINE_ROWS)
    few = few if 0 < few.label.sum() < len(few) else train
    line = logistic.line_of(logistic.fit(few, few, schema, {}))
    line = replace(line, slope=np.where(rises, np.maximum(line.slope, 0), line.slope).tolist())
    rows, stop = _known_rows(schema, train, line), {}
    if validation is not None:
        tuning = _known_rows(schema, validation, line)
        stop = {"evals": [(tuning, "validation")], "early_stopping_rounds": patience, "verbose_eval": False}
    seeds = range(given["seed"], given["seed"] + bags)
    boosters = [xgboost.train(given | {"seed": seed}, rows, num_boost_round=rounds, **stop) for seed in seeds]
    return Trees(schema, line, [each[: each.best_iteration + 1] if stop else each for each in boosters])


def _log_odds(model: Trees, matrix: np.ndarray) -> np.ndarray:
    rows = _rows(model.schema, matrix)  # once for all boosters; predicting in place would take it in for each
    moved = [booster.predict(rows, output_margin=True).astype(float) for booster in model.boosters]
    return model.shift + model.factor * (model.line.log_odds(matrix) + np.mean(moved, axis=0))


def _find_factor(log_odds: np.ndarray, label: np.ndarray) -> float:
    """What log-odds are to be multiplied by for the least log loss; above 0, so that their order stays.

    Temperature scaling, Guo et al. (2017), "On Calibration of Modern Neural Networks", with a normal prior on the
    factor's logarithm. An intercept is fitted along and not kept, so that another rate than training's moves nothing.
    """
    from scipy.optimize import minimize  # not at the top: trees predict without it

    def loss(given: np.ndarray) -> float:
        moved = np.exp(given[0]) * log_odds + given[1]
        return (np.logaddexp(0, moved) - label * moved).sum() + (given[0] / DOUBT) ** 2 / 2

    ends = np.log(MOST_FACTOR)
    return float(np.exp(minimize(loss, [0.0, 0.0], bounds=[(-ends, ends), (None, None)]).x[0]))


def _calibrate(model: Trees, rows: Part, factor: float) -> Trees:
    """The model with its log-odds times the factor, shifted so that these rows' mean probability stays."""
    log_odds = _log_odds(model, model.schema.matrix(thin(rows, LINE_ROWS).features))
    probability = 1 / (1 + np.exp(-log_odds))
    centre = np.average(log_odds, weights=probability * (1 - probability))  # around which, to first order, it stays
    return replace(model, factor=factor, shift=float((1 - factor) * centre))


def _names(count: int) -> list[str]:
    return ["model.ubj", *(f"model-{place}.ubj" for place in range(1, count))]


def _known_rows(schema: FeatureSchema, part: Part, line: Line) -> xgboost.DMatrix:
    matrix = schema.matrix(part.features)
    return _rows(schema, matrix, label=part.label, base_margin=line.log_odds(matrix))


def _rows(schema: FeatureSchema, matrix: np.ndarray, **known: np.ndarray) -> xgboost.DMatrix:
    kinds = ["q" if feature.kind == "number" else "c" for feature in schema.features]
    return xgboost.DMatrix(matrix, **known, feature_types=kinds, enable_categorical=True, nthread=1)
