"""Text in: files, folders, patterns and named data sets become one stream of tokens, a little at a time.

    places.py      what a person named -> files                unpacking.py   bytes of a file, out of gz, zst, bz2, xz
    plain.py       bytes -> characters, lines                  pairs.py       `input |target`
    rows.py        jsonl, csv: a column of their rows          parquet.py     the same of parquet
    hub.py         named data sets                             synthetic.py   text of a known entropy
    sources.py     all of these behind one door                encoding.py    characters -> the words of a corpus
    census.py      what was met on the way, counted            parquet_pages.py  what pages of parquet unpack to

Rules for editing: nothing here holds more than a document's bounded part in memory, whatever the file. A file is a stranger's: what it
claims is bounded before it is believed, and what is wrong with it is a CorpusError of one line that names the file and the place.
"""
