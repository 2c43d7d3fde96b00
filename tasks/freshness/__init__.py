"""Whether a step is up to date: digests, receipts, the decision and its reasons. Light."""
