"""How a model is trained: a learning rate and a weight decay for each weight."""
