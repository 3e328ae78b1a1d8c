"""Judgements by people: the store, the queue, the page where they are made, the choice of what to label, and
what the labels are worth."""
