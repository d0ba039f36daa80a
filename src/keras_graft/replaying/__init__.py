"""The steps that made a model: shown, kept in files, and replayed on another model."""
