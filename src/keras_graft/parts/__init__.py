"""Taking a network apart, and joining its parts."""
