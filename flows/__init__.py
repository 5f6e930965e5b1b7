"""Sentences: when, in which order, with what patience. The only place that knows prefect."""
