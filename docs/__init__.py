"""The pages of the documentation, and `python -m docs.pictures`, which makes the pictures in them."""
