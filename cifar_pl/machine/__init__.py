"""The machine: processor, GPUs, processes, cluster."""
