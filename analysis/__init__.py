"""The attention investigation: what each layer looks at, and the tiers that follow from it."""

if __name__ == "analysis":
    # In a checkout, by the former name and before `hermes`.
    from hermes.forwarding import find_again

    find_again(__name__)
