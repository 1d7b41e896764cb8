"""Memory policies, one file each; the file's name is the registry key."""

if __name__ == "policies":
    # In a checkout, by the former name and before `hermes`.
    from hermes.forwarding import find_again

    find_again(__name__)
