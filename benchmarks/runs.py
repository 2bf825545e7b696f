"""Commands of mmmask that benchmarks run once."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETS = Path(os.environ.get("MMMASK_DATA", ROOT.parent / "shared" / "data"))


def call(folder, *command):
    """Run a command of mmmask once; the seconds that it took, remembered in the folder."""
    note = folder / "seconds.json"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        with open(folder / "log", "w") as log:
            words = [sys.executable, "-m", "mmmask.cli", *map(str, command)]
            subprocess.run(words, cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)
        note.write_text(json.dumps(time.perf_counter() - start))
    return json.loads(note.read_text())
