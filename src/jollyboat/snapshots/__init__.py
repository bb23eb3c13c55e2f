"""Published tables as immutable files, and how features are distributed in them."""
