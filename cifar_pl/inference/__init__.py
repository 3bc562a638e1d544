"""A trained network from its run's directory."""
