"""Training: a YAML recipe, the Trainer that follows it, and `fit`, which walks its phases.

Requires torch, transformers, accelerate, datasets and pydantic.
"""
