"""Copy weights and optimizer state: addresses, matching, resize rules, files, transplants."""
