"""One verb over as many pictures as there are, into one file; stopped at any time, it goes on where it was.

inputs.py     from folders, patterns and lists to pictures, and a share of them
tasks.py      what is asked of each picture, and the rows that come of it
tables.py     rows as columns: what a CSV and a parquet file hold
record.py     what a file was made by, and that one process at a time writes it
lines.py      JSON Lines and CSV, a row at a time
parts.py      parquet, a part at a time
running.py    the pictures in work, and their rows in order
ray_data.py   the same on many machines
"""
