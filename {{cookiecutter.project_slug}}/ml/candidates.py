"""The candidates: functions that fit a classifier, named by `[train] candidates`, simplest first.

A candidate returns a fitted classifier of any library, with `predict_proba`.
`X` is float64: a row per session, a column per feature of `schema`, categories as codes, NaN where
unknown. `settings` is its section in project.toml, plus `seed`.
The first call has train as X and validation as X_val. The second call fits the model that serves:
X is both parts, X_val and y_val are None, `settings["first_fit"]` is the result of the first call.
"""

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

# The lowest and highest value of each setting in a search ([train] trials).
SEARCH = {
    "logistic": {"C": (0.001, 10.0)},
    "xgboost": {"max_depth": (2, 6), "learning_rate": (0.02, 0.2), "min_child_weight": (1, 40)},
}


def baseline(X, y, X_val, y_val, schema, settings):
    """A decision tree of four leaves on a few features; unknown counts as 0."""
    named = [schema.place(f) for f in settings.get("features", ()) if f in schema.names]
    varying = [place for place in named if np.ptp(np.nan_to_num(X[:, place])) > 0]
    columns = varying or schema.places("number") or schema.places("category")
    fill = SimpleImputer(strategy="constant", fill_value=0, keep_empty_features=True)
    tree = DecisionTreeClassifier(
        max_leaf_nodes=4,
        min_samples_leaf=max(5, len(y) // 100),
        min_impurity_decrease=1e-9,  # no split of leaves with equal rates
        random_state=settings["seed"],
    )
    return make_pipeline(ColumnTransformer([("few", fill, columns)]), tree).fit(X, y)


def logistic(X, y, X_val, y_val, schema, settings):
    """Logistic regression on scaled numbers and a column for each category."""
    scale = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True),
        FunctionTransformer(np.arcsinh, feature_names_out="one-to-one"),  # counts are skewed
        StandardScaler(),
    )
    columns = ColumnTransformer(
        [
            ("numbers", scale, schema.places("number")),
            ("categories", OneHotEncoder(handle_unknown="ignore"), schema.places("category")),
        ]
    )
    regression = LogisticRegression(C=settings.get("C", 0.1), solver="newton-cholesky")
    return make_pipeline(columns, regression).fit(X, y)


def xgboost(X, y, X_val, y_val, schema, settings):
    """Boosted trees with early stopping; `increasing` features never lower the probability."""
    own = dict(settings)
    first, increasing = own.pop("first_fit", None), own.pop("increasing", [])
    rising = [int(f.kind == "number" and f.name in increasing) for f in schema.features]
    defaults = {
        "learning_rate": 0.08,
        "max_depth": 5,
        "subsample": 0.8,
        "reg_lambda": 2,
        "n_jobs": 1,
    }
    model = XGBClassifier(
        feature_types=["q" if feature.kind == "number" else "c" for feature in schema.features],
        enable_categorical=True,
        monotone_constraints=tuple(rising),
        **defaults | {"max_bin": 128, "min_child_weight": max(5, y.sum() // 250)} | own,
    )
    if X_val is None:
        return model.set_params(n_estimators=first.best_iteration + 1).fit(X, y)
    model.set_params(n_estimators=own.get("n_estimators", 600), early_stopping_rounds=30)
    return model.fit(X, y, eval_set=[(X_val, y_val)], verbose=False)
