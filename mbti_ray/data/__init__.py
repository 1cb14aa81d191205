"""Reading, cleaning, masking, splitting, tokenizing and batching: from a file to tensors."""

import os

_SETTINGS = {
    # A process may fork after the tokenizer was used, and its threads do not survive a fork.
    "TOKENIZERS_PARALLELISM": "false",
    # Without a network the hub's client would log ten retries before our one line.
    "HF_HUB_VERBOSITY": "error",
}

# The libraries read these at import, which the modules below do; values set by the user win.
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
