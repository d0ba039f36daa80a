"""Training a head from a store."""
