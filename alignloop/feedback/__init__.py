"""Feedback: where preferences come from. The store of human judgements, the page where they are made,
the choice of what to label, and what the labels are worth."""
