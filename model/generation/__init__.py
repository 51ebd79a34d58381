"""Text out of a model: what may be asked (settings), a model that reads (reader), choosing tokens (sampling, beam_search), and text
that can be shown while it grows (text_stream). `generation` is where they meet; read it first.

Free-form floating point, on a model that does not change while it is read. Importing this package or its `settings` must not
import torch.
"""
