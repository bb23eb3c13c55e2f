"""Candidates that `jollyboat add candidate` copies, each complete in itself."""


def sklearn(X, y, X_val, y_val, schema, settings):
    """scikit-learn's boosted trees over filled columns."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    trees = HistGradientBoostingClassifier(learning_rate=0.05, random_state=settings["seed"])
    return make_pipeline(fill, trees).fit(X, y)


def lightgbm(X, y, X_val, y_val, schema, settings):
    """LightGBM, with as many trees as validation needs."""
    from lightgbm import LGBMClassifier, early_stopping

    model = LGBMClassifier(n_estimators=600, learning_rate=0.05, n_jobs=1, verbose=-1)
    if X_val is None:
        return model.set_params(n_estimators=settings["first_fit"].best_iteration_).fit(X, y)
    stop = early_stopping(30, verbose=False)
    return model.fit(X, y, eval_X=X_val, eval_y=y_val, callbacks=[stop])
