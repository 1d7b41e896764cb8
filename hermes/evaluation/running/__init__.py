"""Running an evaluation: its settings, its questions, its clock."""
