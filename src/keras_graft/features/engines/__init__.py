"""What runs a trunk over data: in this process, or on the actors of Ray."""
