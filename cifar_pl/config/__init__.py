"""Configs: what may stand in them, what is built from them, how a run is resumed."""
