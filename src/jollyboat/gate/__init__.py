"""The checks between a training run and a champion, each with a limit and a remedy."""
