"""Share layers and tie weights: one layer, or one variable, used in several places."""
