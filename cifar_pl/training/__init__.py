"""A run: learning rate, fit, test, report."""
