"""Read, clean and mask, split, window, batch: everything between a file and a tensor."""

import os

_SETTINGS = {
    # A process may be forked after the tokenizer was used; its threads would not survive that.
    "TOKENIZERS_PARALLELISM": "false",
    # Without a network the hub's client would report ten retries before our one line.
    "HF_HUB_VERBOSITY": "error",
}

# Read when the libraries are imported, which the modules below do; what a user has set stays.
for _name, _value in _SETTINGS.items():
    os.environ.setdefault(_name, _value)
