"""What a run leaves: a row for every answer, in a folder."""
