"""What carries the project: landing, store, snapshot, audit, bundle, champion, page. Replaced whole by an upgrade."""
