"""Every bound on what a peer, a genesis or a person can hand to the model library, each with its reason.

The exponents and shifts are consensus rules: changing one changes the result of a round, and so the network.
"""

from typing import Final

# --- the flat buffer ---------------------------------------------------------------------------------------------
CHUNK_VALUES: Final = 4096  # one exponent per chunk; every tensor starts on a chunk
LEAF_BYTES: Final = 65536  # the content address hashes leaves of this size: four chunks of float32

# --- fixed point (docstring of model/aggregate.py has the proof that nothing wraps) ------------------------------
FRACTION_BITS: Final = 40  # SH: a contribution's value is an integer in units of 2^-40
UPDATE_BITS: Final = 26  # S: the outer step moves a parameter by an integer in units of 2^-26
EXPONENT_MIN: Final = -40  # one unit of 2^-40; anything finer rounds
EXPONENT_MAX: Final = -8  # 127 * 2^-8: no parameter moves by half in one round
QUANTUM_MAX: Final = 127  # int8 without -128, so that negation never leaves the range
NORM_WEIGHT_BITS: Final = 12  # equalising weights are integers in units of 2^-12
NORM_WEIGHT_MAX: Final = 4 << NORM_WEIGHT_BITS  # a short contribution is stretched at most fourfold
WEIGHT_SUM_MAX: Final = 1 << 10  # contributions, counted by weight, in one block
RATE_MAX: Final = 1 << 10  # numerator and denominator of the outer rate
MOMENTUM_SHIFT_MAX: Final = 10  # the momentum coefficient is numerator / 2^shift, below 1
STEP_MAX: Final = (1 << 24) - 1  # |d|: the largest integers that float32 holds without a gap

# --- sizes (a genesis comes from a stranger; none of these may ask for unbounded memory or time) ------------------
VOCABULARY: Final = 256  # byte tokens
VOCABULARY_MAX: Final = 1 << 18  # the largest of the tokenizers in use have 262,144 words
VOCABULARY_STEP: Final = 64  # a preset's rows are a multiple of it: whole tiles of a matrix product
EXPERTS_MAX: Final = 512  # as many as the routers' kernels hold in registers
PARAMETERS_MAX: Final = 1 << 36  # 275 GB of float32: what no machine of a member holds is no model of a network
WIDTH_MAX: Final = 16384  # that of the largest Llama
LAYERS_MAX: Final = 256  # it has 126
HEADS_MAX: Final = 256  # it has 128
FEED_FORWARD_MAX: Final = 65536  # it has 53248
CONTEXT_MAX: Final = 1 << 17  # attention over it takes 64 GiB a head; nobody here trains that
ROPE_BASE_MAX: Final = 10**9  # beyond, the slowest pair turns by a ten-thousandth over the longest context
INITIAL_GAIN_MAX: Final = 64  # beyond, AdamW's first step is larger than the weights
LOCAL_STEPS_MAX: Final = 10_000  # hours between two rounds, for which nobody waits
BATCH_MAX: Final = 4096  # windows in one step; more of them is what more nodes are for
WARMUP_STEPS_MAX: Final = 10**6  # a node's whole life of steps
SCHEDULE_STEPS_MAX: Final = 10**9  # ten steps a second for three years
CONFIG_BYTES_MAX: Final = 1 << 16  # a configuration file is a page of text

# --- folders that other programs write (model/interchange) -----------------------------------------------------------
TENSOR_HEADER_BYTES_MAX: Final = 1 << 24  # 100,000 names: a tensor for each expert of the largest mixtures
TENSORS_PER_FILE_MAX: Final = 1 << 15  # of those that we write, so that what we write is read
INDEX_BYTES_MAX: Final = 1 << 24  # of a sharded folder: the same names, and the file of each
SHARDS_MAX: Final = 1000  # five gigabytes each, as most folders have it: five terabytes
SHARD_BYTES: Final = 5 * 10**9  # of a file that we write; a tensor is never cut

# --- text ----------------------------------------------------------------------------------------------------------
CORPUS_BYTES_MAX: Final = 1 << 36  # 64 GiB, 32 billion words of two bytes: what a model of 1.6 billion parameters wants
TOKENIZER_BYTES_MAX: Final = 64 << 20  # the largest tokenizer.json in use, of 262,144 words, has 33 MB
FILES_MAX: Final = 1 << 20  # of a folder: their names are in memory, a few hundred megabytes of them
PIECE_BYTES: Final = 1 << 18  # a file is read, and unpacked, so much at a time
LINE_CHARACTERS_MAX: Final = 1 << 25  # of a row of jsonl or csv, which is parsed in memory: a hundred megabytes
UNPACKED_FREE_BYTES: Final = 64 << 20  # so much may come out of any compressed file
UNPACKED_RATIO_MAX: Final = 250  # and then so many times what went in; text packs to a third or a tenth
PACKED_TIMES_MAX: Final = 3  # one in the other: nobody means more, and each has a window of its own
UNPACKING_MEMORY_MAX: Final = 1 << 27  # for the window of zstd or xz (`zstd --long` asks for it), and a page of parquet
DEFAULT_CORPUS_BYTES: Final = 4 << 20  # enough that tiny never sees it twice in a demonstration
SOURCE_FILE_BYTES_MAX: Final = 1 << 20  # one file of the default corpus
HELD_OUT_SLICES: Final = 8  # spread over the text, so that no single chapter decides
HELD_OUT_DIVISOR: Final = 20  # one twentieth of the text is never trained on
EVALUATION_WINDOWS: Final = 64  # 64 windows of 128: 8,192 predictions, a quarter of a second for tiny
MICRO_BATCH_TOKENS: Final = {"cpu": 2048, "cuda": 16384}  # the stop flag is looked at this often
SNAPSHOT_HEADER_BYTES_MAX: Final = 1 << 20  # names and shapes: the most layers with their momentum are 600 KB

# --- text out (asked for by the node's owner, on whose memory and time it goes) ------------------------------------
PROMPT_CHARACTERS_MAX: Final = 1 << 20  # the longest context, 131,072 tokens, is half of it in English
BEAMS_MAX: Final = 64  # each keeps all that it has read: 64 times the memory of one text
TEMPERATURE_MAX: Final = 100  # beyond, every token is as likely as any other, to a percent
STOPS_MAX: Final = 16  # each is looked for after every token
STOP_CHARACTERS_MAX: Final = 256  # so much text is held back before it is shown
LIKELIEST_MAX: Final = 1000  # rows of a table that nobody reads to its end
