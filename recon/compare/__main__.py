"""``python -m recon.compare JOB.json``: one contestant in a process of its own."""

import sys

from recon.compare.worker import main

sys.exit(main(sys.argv[1:]))
