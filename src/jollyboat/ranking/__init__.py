"""Ranking questions: which item comes next, each point's candidates, and how well they rank."""
