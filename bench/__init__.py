"""What the pipeline costs over the bare client: `make bench`."""
