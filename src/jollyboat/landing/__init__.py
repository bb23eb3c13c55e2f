"""Raw files as bytes: their catalog, what each holds, and which cannot be read."""
