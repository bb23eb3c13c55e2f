"""The one renderer of all pages, its templates, and text for a terminal."""
