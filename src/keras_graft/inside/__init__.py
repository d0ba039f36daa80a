"""Look inside a run: record values, patch them, and take gradients at them."""
