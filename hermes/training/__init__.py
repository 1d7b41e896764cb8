"""Training of the embedded model, in stages, through Lightning."""
