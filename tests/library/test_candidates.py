import json
import os
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ml_data import SETTINGS, part, split
from sklearn.metrics import average_precision_score

from jollyboat.store.errors import CannotLearn
from jollyboat.store.store import PROJECT
from jollyboat.training.candidates import load_module
from jollyboat.training.evaluate import log_loss
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.split import Part

LADDER = ["rule", "logistic", "xgboost"]
SPLIT = split(4000)
SCHEMA = FeatureSchema.from_frame(SPLIT.train.features)


@pytest.fixture(scope="module", params=LADDER)
def fitted(request):
    """Each candidate's module and a model of it."""
    module = load_module(request.param)
    return module, module.fit(SPLIT.train, SPLIT.validation, SCHEMA, SETTINGS)


def fit_on(name: str, features: pd.DataFrame, label: np.ndarray):
    module, some = load_module(name), part(features, label)
    return module, module.fit(some, some, FeatureSchema.from_frame(features), SETTINGS)


def test_the_schema_tells_numbers_from_categories_and_comes_back_from_plain_values():
    categories = {feature.name: feature.categories for feature in SCHEMA.features if feature.kind == "category"}

    assert categories == {"channel": ("ads", "mail", "search"), "never_known_text": ()}
    assert FeatureSchema.from_dict(SCHEMA.to_dict()) == SCHEMA


def test_the_matrix_holds_numbers_codes_and_nothing_where_nothing_is_known():
    schema = FeatureSchema.from_frame(
        pd.DataFrame({"price": [Decimal("1.50"), None], "known": [True, None], "device": ["tv", "mobile"]})
    )

    rows = pd.DataFrame(
        {"device": ["mobile", "fridge", None], "price": [2, np.inf, None], "known": [False, True, pd.NA]}
    )
    expected = [[2, 0, 0], [np.nan, 1, np.nan], [np.nan, np.nan, np.nan]]

    np.testing.assert_array_equal(expected, schema.matrix(rows))
    np.testing.assert_array_equal(np.tile(expected, (500, 1)), schema.matrix(pd.concat([rows] * 500)))


def test_of_very_many_categories_the_most_frequent_are_kept():
    values = [f"c{place}" for place in range(200)] + [f"c{place}" for place in range(150, 200)]

    schema = FeatureSchema.from_frame(pd.DataFrame({"city": values}))

    assert {f"c{place}" for place in range(150, 200)} == set(schema.features[0].categories)


def test_a_column_that_is_missing_is_named():
    with pytest.raises(CannotLearn, match=r"lack channel,.*make data train"):
        SCHEMA.matrix(SPLIT.train.features.drop(columns="channel"))


def test_a_column_that_no_model_reads_is_named():
    with pytest.raises(CannotLearn, match="seen_at"):
        FeatureSchema.from_frame(pd.DataFrame({"seen_at": [pd.Timestamp("2026-01-01")]}))


def test_each_rung_of_the_ladder_learns_the_signal(fitted):
    module, model = fitted

    probability = module.predict_proba(model, SPLIT.holdout.features)

    assert probability.shape == (len(SPLIT.holdout),)
    assert ((probability > 0) & (probability < 1)).all()
    assert average_precision_score(SPLIT.holdout.label, probability) > 1.3 * SPLIT.holdout.label.mean()
    assert probability.mean() == pytest.approx(SPLIT.holdout.label.mean(), abs=0.03)


def test_a_model_that_is_saved_and_loaded_predicts_the_same(fitted, tmp_path):
    module, model = fitted

    module.save(model, tmp_path)
    again = module.load(tmp_path)

    assert not list(tmp_path.glob("*.pkl"))
    np.testing.assert_array_equal(
        module.predict_proba(model, SPLIT.holdout.features), module.predict_proba(again, SPLIT.holdout.features)
    )
    assert module.describe(model) == module.describe(again)


def test_contributions_and_a_constant_add_up_to_the_log_odds(fitted):
    module, model = fitted
    rows = SPLIT.holdout.features

    probability, moved = module.predict_proba(model, rows), module.explain(model, rows)

    assert SCHEMA.names == list(moved.columns)
    assert moved.index.equals(rows.index)
    constant = np.log(probability / (1 - probability)) - moved.sum(axis=1).to_numpy()
    assert np.ptp(constant) < 1e-4
    assert moved["cart_add_count"].std() > 0
    assert (moved["always_one"] == moved["always_one"].iloc[0]).all()


def test_what_was_never_seen_is_predicted_without_a_fault(fitted):
    module, model = fitted
    odd = SPLIT.holdout.features.iloc[:3].copy()
    odd["channel"] = ["carrier pigeon", None, ""]
    odd["cart_add_count"] = [-5, 10**9, None]
    odd["never_known_number"] = [1.0, np.nan, 1e300]
    odd["never_known_text"] = "now known"

    probability = module.predict_proba(model, odd)

    assert np.isfinite(probability).all()
    assert np.isfinite(module.explain(model, odd).to_numpy()).all()


@pytest.mark.parametrize("name", LADDER)
@pytest.mark.parametrize(
    "features",
    [
        pd.DataFrame({"only_number": np.arange(50)}),
        pd.DataFrame({"only_text": ["a", "b"] * 25}),
        pd.DataFrame({"constant": [1] * 50, "nothing": [None] * 50, "unknown": [np.nan] * 50}),
    ],
    ids=["a number", "a text", "nothing to tell apart"],
)
def test_fifty_rows_of_very_little_are_enough(name, features, tmp_path):
    module, model = fit_on(name, features, (np.arange(50) % 5 == 0).astype(int))

    module.save(model, tmp_path)
    probability = module.predict_proba(module.load(tmp_path), features)

    assert np.isfinite(probability).all()
    assert module.explain(model, features).shape == features.shape
    assert module.describe(model).endswith(".")


@pytest.mark.parametrize("named", [[], ["not there"], ["always_one"], ["cart_add_count", "not there"]])
def test_the_rule_asks_about_the_features_it_is_given_or_finds_some_where_none_of_them_varies(named):
    module = load_module("rule")

    model = module.fit(SPLIT.train, SPLIT.validation, SCHEMA, {"features": named})

    assert "cart add count" in module.describe(model)
    assert 2 <= len(model.cases) <= 4


def test_the_rule_is_one_sentence_in_whole_numbers_and_rates():
    module, model = fit_on(
        "rule",
        pd.DataFrame({"cart_add_count": np.arange(400) % 4}),
        (np.arange(400) % 4 >= 2).astype(int) * (np.arange(400) % 8 > 3),
    )

    told = module.describe(model)
    assert told == "The chance of the outcome is 49 % when cart add count is at least 2; otherwise 1.2 %."


def test_the_rates_of_the_rule_are_drawn_towards_the_overall_rate_and_unknown_counts_as_nothing():
    label = np.r_[np.ones(90), np.zeros(10), np.zeros(100)].astype(int)

    module, model = fit_on("rule", pd.DataFrame({"in_cart": [1] * 100 + [0] * 50 + [None] * 50}), label)

    found = module.predict_proba(model, pd.DataFrame({"in_cart": [1, 0, None]}))
    assert found == pytest.approx([(90 + 10 * 0.45) / 110, 10 * 0.45 / 110, 10 * 0.45 / 110])


def test_the_rule_predicts_without_scikit_learn_and_xgboost(tmp_path):
    module, model = fit_on("rule", pd.DataFrame({"in_cart": [1, 0] * 50}), np.array([1, 0] * 50))
    module.save(model, tmp_path)
    program = (
        "import sys, pathlib, pandas, jollyboat.training.candidates\n"
        "rule = jollyboat.training.candidates.load_module('rule')\n"
        f"rule.predict_proba(rule.load(pathlib.Path({str(tmp_path)!r})), pandas.DataFrame({{'in_cart': [1]}}))\n"
        "print(sorted({'sklearn', 'xgboost', 'metaflow'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_xgboost_never_lowers_the_score_for_more_in_the_cart():
    module = load_module("xgboost")
    model = module.fit(SPLIT.train, SPLIT.validation, SCHEMA, SETTINGS)
    rows = SPLIT.holdout.features.iloc[:200]

    scores = [module.predict_proba(model, rows.assign(cart_add_count=count)) for count in range(6)]

    assert (np.diff(scores, axis=0) >= 0).all()


def with_flipped_labels(some: Part) -> Part:
    """The part with every fourth label turned round."""
    return replace(some, label=np.where(np.arange(len(some)) % 4 == 0, 1 - some.label, some.label))


def test_xgboost_is_less_sure_where_validation_is_noisier_than_training_and_ranks_as_before():
    module, noisy = load_module("xgboost"), with_flipped_labels(SPLIT.validation)
    model = module.fit(SPLIT.train, noisy, SCHEMA, SETTINGS)
    as_sure = replace(model, factor=1.0, shift=0.0)

    tamed, sure = (module.predict_proba(each, noisy.features) for each in (model, as_sure))

    assert model.factor < 0.95
    assert log_loss(noisy.label, tamed) < log_loss(noisy.label, sure)
    np.testing.assert_array_equal(np.argsort(sure, kind="stable"), np.argsort(tamed, kind="stable"))
    assert tamed.mean() == pytest.approx(sure.mean(), rel=0.05)


@pytest.mark.parametrize(
    ("slope", "shift", "factor"), [(1, 2, 1), (0.7, 0, 0.7), (1.3, 1, 1.3), (5, 0, 2), (-0.3, 2, 0.5)]
)
def test_xgboost_is_calibrated_by_the_slope_within_half_and_twice_whatever_the_rate(slope, shift, factor):
    log_odds = np.random.default_rng(0).normal(-2, 1.5, 20_000)
    label = 1 / (1 + np.exp(-slope * log_odds - shift))  # as it would be on the mean of very many rows

    assert load_module("xgboost")._find_factor(log_odds, label) == pytest.approx(factor, abs=0.05)


def test_xgboost_keeps_what_validation_found_when_it_is_fitted_again_and_saved(tmp_path):
    module = load_module("xgboost")
    learned = module.fit(SPLIT.train, with_flipped_labels(SPLIT.validation), SCHEMA, SETTINGS)

    model = module.refit(learned, SPLIT.train, SCHEMA, SETTINGS)
    module.save(model, tmp_path)

    assert learned.factor == model.factor == module.load(tmp_path).factor < 0.95
    assert model.shift == module.load(tmp_path).shift != 0
    probability = module.predict_proba(model, SPLIT.train.features)
    assert probability.mean() == pytest.approx(SPLIT.train.label.mean(), abs=0.005)
    constant = np.log(probability / (1 - probability)) - module.explain(model, SPLIT.train.features).sum(axis=1)
    assert np.ptp(constant) < 1e-4


def test_an_xgboost_saved_before_it_was_calibrated_answers_as_it_did(tmp_path):
    module = load_module("xgboost")
    model = module.fit(SPLIT.train, SPLIT.validation, SCHEMA, SETTINGS)
    module.save(model, tmp_path)
    stored = json.loads((tmp_path / "model.json").read_text())
    del stored["calibration"]
    (tmp_path / "model.json").write_text(json.dumps(stored))

    assert (module.load(tmp_path).factor, module.load(tmp_path).shift) == (1, 0)


def test_xgboost_gives_the_same_file_on_one_and_two_threads(tmp_path):
    module = load_module("xgboost")
    files = []
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        folder.mkdir()
        module.save(module.fit(SPLIT.train, SPLIT.validation, SCHEMA, SETTINGS | {"nthread": threads}), folder)
        files.append((folder / "model.ubj").read_bytes())

    assert files[0] == files[1]


def test_the_same_rows_give_the_same_files_in_another_process(tmp_path):
    program = (
        "import sys; from pathlib import Path; from ml_data import SETTINGS, split\n"
        "from jollyboat.training.candidates import load_module; from jollyboat.training.schema import FeatureSchema\n"
        "parts = split(1000)\n"
        "schema = FeatureSchema.from_frame(parts.train.features); junk = [object() for _ in range(int(sys.argv[2]))]\n"
        f"for name in {LADDER}:\n"
        "    folder = Path(sys.argv[1]) / name; folder.mkdir(parents=True); module = load_module(name)\n"
        "    module.save(module.fit(parts.train, parts.validation, schema, SETTINGS), folder)"
    )
    files = []
    for junk in ("0", "12345"):
        environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:."}
        command = [sys.executable, "-c", program, str(tmp_path / junk), junk]
        subprocess.run(command, check=True, env=environment, cwd=PROJECT)
        saved = sorted(path for path in (tmp_path / junk).rglob("*") if path.is_file())
        files.append({str(path.relative_to(tmp_path / junk)): path.read_bytes() for path in saved})

    assert len(files[0]) >= len(LADDER)
    assert files[0] == files[1]


def test_logistic_refuses_an_archive_with_types_it_does_not_trust(tmp_path):
    import skops.io
    from skops.io.exceptions import UntrustedTypesFoundException

    module = load_module("logistic")
    module.save(module.fit(SPLIT.train, SPLIT.validation, SCHEMA, SETTINGS), tmp_path)
    skops.io.dump(Odd(), tmp_path / "model.skops")

    with pytest.raises(UntrustedTypesFoundException, match="Odd"):
        module.load(tmp_path)


class Odd:
    """A type that nobody asked for."""


@pytest.mark.parametrize("name", ["forest", "../rule", "", "rule.fit"])
def test_a_candidate_that_is_not_there_is_named_with_those_that_are(name):
    with pytest.raises(CannotLearn, match="logistic, rule, xgboost"):
        load_module(name)


def test_a_candidate_of_ones_own_is_a_module_with_the_verbs(tmp_path, monkeypatch):
    import jollyboat.training.candidates

    monkeypatch.setattr(
        jollyboat.training.candidates, "__path__", [*jollyboat.training.candidates.__path__, str(tmp_path)]
    )
    verbs = "\n".join(f"def {verb}(*given): return {verb!r}" for verb in jollyboat.training.candidates.VERBS)
    (tmp_path / "coin.py").write_text(verbs)
    (tmp_path / "mute.py").write_text(verbs.replace("def explain", "def mumble"))

    assert load_module("coin").fit() == "fit"
    with pytest.raises(CannotLearn, match="'mute' lacks explain"):
        load_module("mute")


def test_xgboost_never_lowers_the_score_for_what_is_named_to_raise_it():
    module, returns = load_module("xgboost"), np.arange(600) % 5
    some = part(pd.DataFrame({"returns": returns, "pace": np.arange(600) % 7}), (returns < 2).astype(int))
    asked = pd.DataFrame({"returns": range(5), "pace": 3})

    free, named = (
        module.fit(some, some, FeatureSchema.from_frame(some.features), SETTINGS | {"increasing": names})
        for names in ([], ["returns"])
    )

    assert module.predict_proba(free, asked)[0] > 0.9 > 0.1 > module.predict_proba(free, asked)[4]
    assert (np.diff(module.predict_proba(named, asked)) >= 0).all()
