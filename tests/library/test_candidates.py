import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from ml_data import SETTINGS, part, split
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops.io.exceptions import UntrustedTypesFoundException

from jollyboat.store import PROJECT, UserError
from jollyboat.training.estimators import Model, find_candidate, fit, read_candidates, refit
from jollyboat.training.explanation import describe, explain, is_estimate
from jollyboat.training.persistence import load, save
from jollyboat.training.schema import FeatureSchema

CANDIDATES = ["baseline", "logistic", "xgboost"]
SPLIT = split(4000)
SCHEMA = FeatureSchema.from_frame(SPLIT.train.features)


def fit_own(name: str, **settings) -> Model:
    return fit(name, SPLIT.train, SPLIT.validation, SCHEMA, SETTINGS | settings)


def fit_on(name: str, features: pd.DataFrame, label: np.ndarray, **settings) -> Model:
    rows = part(features, label)
    return fit(name, rows, rows, FeatureSchema.from_frame(features), SETTINGS | settings)


@pytest.fixture(scope="module", params=CANDIDATES)
def fitted(request) -> Model:
    """Each candidate, fitted."""
    return fit_own(request.param)


@pytest.fixture
def forest(monkeypatch) -> Model:
    """A candidate of one's own that is explained by occlusion."""

    def grow(X, y, X_val, y_val, schema, settings):
        fill = SimpleImputer(keep_empty_features=True)
        return make_pipeline(fill, HistGradientBoostingClassifier(max_iter=30)).fit(X, y)

    grow.__module__ = "candidates"
    monkeypatch.setattr(read_candidates(), "forest", grow, raising=False)
    return fit_own("forest")


def test_the_schema_tells_numbers_from_categories_and_comes_back_from_plain_values():
    categories = {
        feature.name: feature.categories
        for feature in SCHEMA.features
        if feature.kind == "category"
    }

    assert categories == {"channel": ("ads", "mail", "search"), "never_known_text": ()}
    assert FeatureSchema.from_dict(SCHEMA.to_dict()) == SCHEMA


def test_the_matrix_holds_numbers_codes_and_nothing_where_nothing_is_known():
    schema = FeatureSchema.from_frame(
        pd.DataFrame(
            {"price": [Decimal("1.50"), None], "known": [True, None], "device": ["tv", "mobile"]}
        )
    )

    rows = pd.DataFrame(
        {
            "device": ["mobile", "fridge", None],
            "price": [2, np.inf, None],
            "known": [False, True, pd.NA],
        }
    )
    expected = [[2, 0, 0], [np.nan, 1, np.nan], [np.nan, np.nan, np.nan]]

    np.testing.assert_array_equal(expected, schema.matrix(rows))
    np.testing.assert_array_equal(
        np.tile(expected, (500, 1)), schema.matrix(pd.concat([rows] * 500))
    )


def test_of_very_many_categories_the_most_frequent_are_kept():
    values = [f"c{place}" for place in range(200)] + [f"c{place}" for place in range(150, 200)]

    schema = FeatureSchema.from_frame(pd.DataFrame({"city": values}))

    assert {f"c{place}" for place in range(150, 200)} == set(schema.features[0].categories)


def test_a_column_that_is_missing_is_named():
    with pytest.raises(UserError, match=r"lack channel,.*make data train"):
        SCHEMA.matrix(SPLIT.train.features.drop(columns="channel"))


def test_a_column_that_no_model_reads_is_named():
    with pytest.raises(UserError, match="seen_at"):
        FeatureSchema.from_frame(pd.DataFrame({"seen_at": [pd.Timestamp("2026-01-01")]}))


def test_each_candidate_learns_the_signal(fitted):
    probability = fitted.predict_proba(SPLIT.holdout.features)

    assert probability.shape == (len(SPLIT.holdout),)
    assert ((probability > 0) & (probability < 1)).all()
    assert (
        average_precision_score(SPLIT.holdout.label, probability) > 1.3 * SPLIT.holdout.label.mean()
    )
    assert probability.mean() == pytest.approx(SPLIT.holdout.label.mean(), abs=0.03)


def test_no_rows_have_no_probabilities(fitted):
    assert fitted.predict_proba(SPLIT.holdout.features.iloc[:0]).shape == (0,)


def test_the_second_call_learns_from_train_and_validation(monkeypatch):
    calls = []

    def watch(X, y, X_val, y_val, schema, settings):
        calls.append((len(X), X_val if X_val is None else len(X_val), settings.get("first_fit")))
        return GaussianNB().fit(np.nan_to_num(X), y)

    watch.__module__ = "candidates"
    monkeypatch.setattr(read_candidates(), "watch", watch, raising=False)
    first = fit_own("watch")
    refit("watch", first, SPLIT.train, SPLIT.validation, SETTINGS)

    train, validation = len(SPLIT.train), len(SPLIT.validation)
    assert [(train, validation, None), (train + validation, None, first.classifier)] == calls


def test_xgboost_keeps_the_number_of_trees_that_validation_chose():
    first = fit_own("xgboost")

    again = refit("xgboost", first, SPLIT.train, SPLIT.validation, SETTINGS)

    trees = again.classifier.get_booster().num_boosted_rounds()
    assert trees == first.classifier.best_iteration + 1 < 600


def assert_saved_and_loaded_the_same(model: Model, folder: Path) -> None:
    rows = SPLIT.holdout.features
    save(model, folder)
    again = load(folder)

    assert {path.suffix for path in folder.iterdir()} <= {".json", ".ubj", ".skops"}
    np.testing.assert_array_equal(model.predict_proba(rows), again.predict_proba(rows))
    few = rows.iloc[:5]
    pd.testing.assert_frame_equal(explain(model, few), explain(again, few))


def test_a_model_that_is_saved_and_loaded_predicts_and_explains_the_same(fitted, tmp_path):
    assert_saved_and_loaded_the_same(fitted, tmp_path)


def test_a_model_of_another_kind_is_saved_and_explained_without_a_change_of_the_library(
    forest, tmp_path
):
    effects = explain(forest, SPLIT.holdout.features.iloc[:20])

    assert is_estimate(forest)
    assert effects["cart_add_count"].abs().mean() > effects["product_view_count"].abs().mean()
    assert (effects["always_one"].abs() < 1e-9).all()
    assert (
        describe(forest)
        == f"HistGradientBoostingClassifier over {len(SCHEMA.names)} features, with max_iter 30."
    )
    assert_saved_and_loaded_the_same(forest, tmp_path)


def test_no_session_is_kept_with_a_model_that_is_explained_by_occlusion(forest):
    training_rows = {tuple(row) for row in np.nan_to_num(SCHEMA.matrix(SPLIT.train.features))}

    assert not training_rows & {tuple(row) for row in np.nan_to_num(forest.typical)}


def test_a_loaded_model_predicts_on_one_thread(tmp_path):
    label = SPLIT.train.label
    forest = RandomForestClassifier(n_estimators=5, n_jobs=2).fit(
        SCHEMA.matrix(SPLIT.train.features), label
    )
    save(Model(SCHEMA, make_pipeline(forest), np.zeros((2, len(SCHEMA.names)))), tmp_path)

    assert load(tmp_path).classifier[-1].n_jobs == 1


def test_effects_and_a_constant_add_up_to_the_log_odds(fitted):
    rows = SPLIT.holdout.features

    probability, effects = fitted.predict_proba(rows), explain(fitted, rows)

    assert SCHEMA.names == list(effects.columns)
    assert effects.index.equals(rows.index)
    constant = np.log(probability / (1 - probability)) - effects.sum(axis=1).to_numpy()
    assert np.ptp(constant) < 1e-4
    assert effects["cart_add_count"].std() > 0
    assert (effects["always_one"] == effects["always_one"].iloc[0]).all()
    assert not is_estimate(fitted)


def test_a_plain_regression_without_a_pipeline_is_explained_by_its_coefficients():
    features = pd.DataFrame({"a": np.arange(50.0), "b": np.arange(50.0) % 7})
    schema, label = FeatureSchema.from_frame(features), (np.arange(50) > 20).astype(int)
    alone = LogisticRegression().fit(schema.matrix(features), label)

    effects = explain(Model(schema, alone), features)

    np.testing.assert_allclose(effects, features * alone.coef_[0])


def test_steps_that_mix_features_are_explained_by_occlusion():
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(0).normal(size=(50, 2))
    schema = FeatureSchema.from_frame(pd.DataFrame(rows, columns=["a", "b"]))
    mixed = make_pipeline(StandardScaler(), PCA(), LogisticRegression()).fit(rows, rows[:, 0] > 0)

    assert is_estimate(Model(schema, mixed))


def test_what_was_never_seen_is_predicted_without_a_fault(fitted):
    odd = SPLIT.holdout.features.iloc[:3].copy()
    odd["channel"] = ["carrier pigeon", None, ""]
    odd["cart_add_count"] = [-5, 10**9, None]
    odd["never_known_number"] = [1.0, np.nan, 1e300]
    odd["never_known_text"] = "now known"

    assert np.isfinite(fitted.predict_proba(odd)).all()
    assert np.isfinite(explain(fitted, odd).to_numpy()).all()


@pytest.mark.parametrize("name", CANDIDATES)
@pytest.mark.parametrize(
    "features",
    [
        pd.DataFrame({"only_number": np.arange(50)}),
        pd.DataFrame({"only_text": ["a", "b"] * 25}),
        pd.DataFrame({"constant": [1] * 50, "nothing": [None] * 50, "unknown": [np.nan] * 50}),
    ],
    ids=["a number", "a text", "nothing to separate"],
)
def test_fifty_rows_of_very_little_are_enough(name, features, tmp_path):
    model = fit_on(name, features, (np.arange(50) % 5 == 0).astype(int))

    save(model, tmp_path)
    probability = load(tmp_path).predict_proba(features)

    assert np.isfinite(probability).all()
    assert explain(model, features).shape == features.shape
    assert describe(model).endswith(".")


@pytest.mark.parametrize(
    "named", [[], ["not there"], ["always_one"], ["cart_add_count", "not there"]]
)
def test_the_baseline_reads_the_features_it_is_given_or_all_numbers_where_none_of_them_varies(
    named,
):
    assert "cart add count" in describe(fit_own("baseline", features=named))


def test_the_baseline_is_one_sentence_with_thresholds_and_rates():
    cart = np.arange(400) % 4
    model = fit_on(
        "baseline",
        pd.DataFrame({"cart_add_count": cart}),
        ((cart > 1) & (np.arange(400) % 8 > 3)).astype(int),
    )

    assert (
        describe(model)
        == "The chance of the outcome is 50 % when cart add count is above 1.5; otherwise 0 %."
    )


def test_a_tree_over_texts_names_them():
    features = pd.DataFrame({"channel": ["ads", "mail", "search"] * 50})

    words = describe(
        fit_on("baseline", features, (features["channel"] != "ads").to_numpy().astype(int))
    )

    assert (
        words == "The chance of the outcome is 100 % when channel is mail or search; otherwise 0 %."
    )


def test_the_baseline_counts_unknown_as_nothing():
    label = np.r_[np.ones(90), np.zeros(110)].astype(int)
    model = fit_on("baseline", pd.DataFrame({"in_cart": [1] * 100 + [0] * 50 + [None] * 50}), label)

    assert [0.9, 0, 0] == model.predict_proba(pd.DataFrame({"in_cart": [1, 0, None]})).tolist()


def test_xgboost_never_lowers_the_probability_for_what_is_named_to_raise_it():
    returns = np.arange(600) % 5
    features, label = (
        pd.DataFrame({"returns": returns, "pace": np.arange(600) % 7}),
        (returns < 2).astype(int),
    )
    requested = pd.DataFrame({"returns": range(5), "pace": 3})

    free, named = (
        fit_on("xgboost", features, label, increasing=names).predict_proba(requested)
        for names in ([], ["returns"])
    )

    assert free[0] > 0.9 > 0.1 > free[4]
    assert (np.diff(named) >= 0).all()


def test_xgboost_gives_the_same_file_on_one_and_two_threads(tmp_path):
    files = []
    for threads in (1, 2):
        folder = tmp_path / str(threads)
        folder.mkdir()
        save(fit_own("xgboost", n_jobs=threads), folder)
        files.append((folder / "model.ubj").read_bytes())

    assert files[0] == files[1]


def test_the_same_rows_give_the_same_files_in_another_process(tmp_path):
    program = (
        "import sys; from pathlib import Path; from ml_data import SETTINGS, split\n"
        "from jollyboat.training.estimators import fit; from jollyboat.training.persistence import save\n"
        "from jollyboat.training.schema import FeatureSchema\n"
        "parts = split(1000); schema = FeatureSchema.from_frame(parts.train.features)\n"
        "junk = [object() for _ in range(int(sys.argv[2]))]\n"
        f"for name in {CANDIDATES}:\n"
        "    folder = Path(sys.argv[1]) / name; folder.mkdir(parents=True)\n"
        "    save(fit(name, parts.train, parts.validation, schema, SETTINGS), folder)"
    )
    files = []
    for junk in ("0", "12345"):
        environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parent}:."}
        command = [sys.executable, "-c", program, str(tmp_path / junk), junk]
        subprocess.run(command, check=True, env=environment, cwd=PROJECT)
        saved = sorted(path for path in (tmp_path / junk).rglob("*") if path.is_file())
        files.append({str(path.relative_to(tmp_path / junk)): path.read_bytes() for path in saved})

    assert len(files[0]) >= len(CANDIDATES)
    assert files[0] == files[1]


class Odd:
    """A type that no model is made of."""


def test_an_archive_with_a_type_that_is_not_named_beside_it_is_refused(tmp_path):
    save(fit_own("logistic"), tmp_path)
    skops.io.dump(Odd(), tmp_path / "model.skops")

    with pytest.raises(UntrustedTypesFoundException, match="Odd"):
        load(tmp_path)


def test_a_function_of_pythons_own_is_refused_even_where_it_is_named(tmp_path):
    save(fit_own("logistic"), tmp_path)
    about = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(
        about.replace('"trusted": [', '"trusted": ["posix.system", ')
    )

    with pytest.raises(UntrustedTypesFoundException, match=r"posix\.system"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["forest", "../baseline", "", "make_pipeline", "SEARCH"])
def test_a_candidate_that_is_not_there_is_named_with_those_that_are(name):
    with pytest.raises(UserError, match="baseline, logistic, xgboost"):
        find_candidate(name)


def test_a_candidate_that_raises_is_named_with_its_line_and_what_to_type(monkeypatch):
    def broken(*inputs):
        raise ValueError("boom")

    broken.__module__ = "candidates"
    monkeypatch.setattr(read_candidates(), "broken", broken, raising=False)

    with pytest.raises(UserError) as refused:
        fit_own("broken")

    *trace, advice = str(refused.value).splitlines()
    assert any('raise ValueError("boom")' in line for line in trace)
    assert "candidate broken of ml/candidates.py raised ValueError('boom')" in advice
    assert advice.endswith("Fix it, then run `make train` again.")


def test_a_candidate_that_returns_no_classifier_is_named(monkeypatch):
    def mute(*inputs):
        return None

    mute.__module__ = "candidates"
    monkeypatch.setattr(read_candidates(), "mute", mute, raising=False)

    with pytest.raises(UserError, match="'mute' returned None, which has no predict_proba"):
        fit_own("mute")
