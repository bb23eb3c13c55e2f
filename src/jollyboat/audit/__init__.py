"""Great Expectations over the built tables: what stops a snapshot, and the data run's page."""
