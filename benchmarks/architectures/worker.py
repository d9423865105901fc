"""A process that surveys architectures, one a line: what crashes or hangs ends nothing else.

Names come in by stdin; a line of JSON goes out by what was stdout at the start.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings

import torch
from transformers.utils import logging as transformers_logging

from .survey import survey


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for line in sys.stdin:
        print(json.dumps(survey(line.strip()).to_json()), file=answers, flush=True)


if __name__ == "__main__":
    main()
