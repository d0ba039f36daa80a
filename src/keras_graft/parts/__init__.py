"""Take a model apart and join models: `extract`, `submodel`, `split`, `join`."""
