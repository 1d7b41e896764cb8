"""How a page and a figure look."""
