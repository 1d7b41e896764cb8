"""Model families, one file each; registered under the entry point group ``hermes.backbones``."""

if __name__ == "backbones":
    # In a checkout, by the former name and before `hermes`.
    from hermes.forwarding import find_again

    find_again(__name__)
