"""Which weight axes shrink together, and networks with fewer or more channels."""
