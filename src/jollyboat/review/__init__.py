"""Sessions that people judge, and their judgements."""
