"""The attention investigation: what each layer looks at, and the tiers that follow from it."""
