"""Which weight is which: addresses, rules for other shapes, files, transplants."""
