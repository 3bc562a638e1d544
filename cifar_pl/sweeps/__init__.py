"""Many runs: grids and searches."""
