"""Models as other programs know them: a folder that transformers loads, written and read.

    config_json.py       config.json, both ways; what it cannot say is refused by name
    tensor_names.py      which range of the flat buffer each tensor of such a folder is
    safetensors_file.py  the file format, strictly
    writing.py           config.json, generation_config.json and the weights of a model, in shards where it is large
    reading.py           the same from a folder that anybody may have made

What it is not: where such a folder comes from (p2pnode/exporting.py adds the chain and the card) or goes to (p2pnode/importing.py).
No torch here: numbers are copied, and turned from sixteen bits into thirty-two, which is exact.
"""
