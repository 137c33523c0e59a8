"""Small right ports, and changes that are planted in them one at a time; see `mutations.py`."""
