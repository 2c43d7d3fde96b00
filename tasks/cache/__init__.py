"""Room for a shared, content-addressed artifact cache keyed by a receipt's key. Light."""
