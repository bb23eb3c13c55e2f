"""A shop's logs with a known probability of each purchase."""
