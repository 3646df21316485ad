"""The model card (README.md) of an output, made from its lineage: what a hub and its readers are told of the model."""
