"""Memory policies, one file each; the file's name is the registry key."""
