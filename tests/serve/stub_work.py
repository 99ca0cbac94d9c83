"""In place of the process that infers: what it does is told by the seed of a run."""

import os
import subprocess
import sys
import time

from maury.serve.child import answer

RESULT, DIES, DEAF, ERROR, FAILS, LISTENS, STARTS = range(7)
unwanted = set()


def urgent(message):
    if message["do"] == "cancel":
        unwanted.add(message["run"])
    return message["do"] == "cancel"


def handle(message, tell):
    if message["do"] == "load":
        if sys.argv[1] == "broken":
            tell({"refused": "broken: no such model"})
            return
        print("libraries print")
        tell({"loaded": True})
        tell({"ready": True, "trouble": "no compiler" if sys.argv[1] == "slow" else ""})
        return
    seed = message["wanted"]["seed"]
    tell({"stage": "reading"})
    tell({"stage": "flow"})
    if seed == DIES:
        os._exit(3)
    if seed == STARTS:
        tell({"started": subprocess.Popen(["sleep", "60"]).pid})
    while seed in (DEAF, STARTS):
        time.sleep(0.05)
    while seed == LISTENS:
        if message["run"] in unwanted:
            tell({"ended": True})
            return
        time.sleep(0.01)
    tell({ERROR: {"error": f"{message['path']}: no star"}, FAILS: {"failed": "a traceback"}}.get(
        seed, {"result": {"pid": os.getpid()}}))  # fmt: skip


if __name__ == "__main__":
    answer(handle, urgent)
