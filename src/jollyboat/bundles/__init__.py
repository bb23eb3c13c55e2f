"""A model with everything that it needs to serve: features in SQL, lookups, estimator, card."""
