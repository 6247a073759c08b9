"""Programs that do the same job: ours, and those of two stream frameworks."""
