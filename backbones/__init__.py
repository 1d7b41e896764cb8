"""Model families, one file each; registered under the entry point group ``hermes.backbones``."""
