"""A cold worker: from the start of a process to models that are ready, and to the first answer.

    python -m benchmarks.infer.cold_start [--models ct_structures,cxr_pneumonia] [--threads 2]

A fresh Python imports the worker, loads the models and answers once on a small volume; then it answers for
the models in turns, whose networks must stay the same objects. Pairs are [wall, CPU] seconds, one JSON line.
The bar (issue 6): the first job is taken within 10 s of start, which is what `ready` says; on a machine that
others use too, only the CPU seconds can be compared.
"""

import argparse
import json
import subprocess
import sys
import time

CHILD = """
import time
from dicom_node.infer import worker  # what a worker imports, all of it
from dicom_node.catalogue import catalogue
from dicom_node.infer.engine import LocalEngine
from dicom_node.settings import BUNDLED_MODELS, InferSettings
imported = time.process_time()
import json, sys
names, threads, began = sys.argv[1].split(","), int(sys.argv[2]), float(sys.argv[3])
engine = LocalEngine(InferSettings(device="cpu", threads=threads))
known = catalogue(BUNDLED_MODELS)
networks = {name: engine.load(known[name], known[name].digest).network for name in names}
ready = [time.time() - began, time.process_time()]
import numpy as np
from tests.builders.volumes import projection, volume
rng = np.random.default_rng(0)
array = rng.normal(0, 300, (40, 128, 128)).astype(np.float32)
flat = {2: projection(array[0]), 3: volume(array, spacing=(3.0, 2.0, 2.0))}
for name in names * 2:
    engine.predict(known[name], flat[known[name].input.dimensions], known[name].digest)
    if name == names[0] and len(ready) == 2:
        ready += [time.time() - began, time.process_time()]
same = all(engine.load(known[n], known[n].digest).network is networks[n] for n in names)
print(json.dumps({
    "import_cpu_s": round(imported, 2), "ready_s": [round(x, 2) for x in ready[:2]],
    "first_answer_s": [round(x, 2) for x in ready[2:]], "alternated_warm": same,
}))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", default="ct_structures,cxr_pneumonia")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    began = str(time.time())
    command = [sys.executable, "-W", "ignore", "-c", CHILD]
    done = subprocess.run(
        [*command, options.models, str(options.threads), began],
        capture_output=True,
        text=True,
        check=True,
    )
    print(json.dumps(json.loads(done.stdout.splitlines()[-1])))


if __name__ == "__main__":
    main()
