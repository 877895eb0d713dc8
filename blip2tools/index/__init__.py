"""Pictures that can be found: an index of their contrastive (ITC) features on disk, and other stores behind one interface.

walk.py        which files in a folder are pictures
catalogue.py   what is known of each file (SQLite)
rows.py        the features, float16, mapped into memory
shelf.py       one folder's index: catalogue, rows and passes; one writer, many readers
passes.py      the quick look that says which pictures are worth an exact one
nearest.py     a text's nearest pictures, and a picture's
library.py     the indexes of this user, by folder
stores.py      other places for the same rows: memory, LanceDB, Qdrant

Nothing here knows a model: features come as numbers, with the digest of the matcher that made them.
"""
