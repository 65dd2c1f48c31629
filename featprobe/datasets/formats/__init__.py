"""File formats that Pillow does not read, or reads only in part: one file each, heavy packages inside functions."""
