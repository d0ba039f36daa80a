"""Pictures of networks: a scene, and what draws it. They read graphs and reports, and change nothing."""
