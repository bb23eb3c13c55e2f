"""What changed since training: drift, quality, volumes, latency, and when to train again."""
