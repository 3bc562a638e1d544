"""How fast and how well: the scripts behind every figure in the README."""
