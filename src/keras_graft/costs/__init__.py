"""What a call computes and holds: multiply-adds, operations, weights and activations."""
