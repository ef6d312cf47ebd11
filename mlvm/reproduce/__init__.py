"""Running a notebook again and saying, cell by cell, whether it gave what is stored in it."""
