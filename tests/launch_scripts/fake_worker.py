"""Stands in for `moco-tf pretrain` under launch/local_workers.py.

    fake_worker.py PLAN ... --worker_index=INDEX

PLAN has one word for each start and, within it, for each worker:
"kill,wait 0,0". A worker notes what happens to it in the file notes-INDEX, and
acts when all have come so far.
"""

import os
import signal
import subprocess
import sys
import time

index = int(sys.argv[-1].removeprefix("--worker_index="))
path = f"notes-{index}"
start = open(path).read().count("argv") if os.path.exists(path) else 0


def note(*words):
    with open(path, "a") as file:
        print(*words, file=file)


def asked(number, frame):
    note("got", signal.Signals(number).name)
    if do != "deaf":
        sys.exit(138)


starts = sys.argv[1].split()
do = starts[min(start, len(starts) - 1)].split(",")[index]
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, asked)
note("argv", *sys.argv[1:])
note("cache", os.environ["CUDA_CACHE_MAXSIZE"])
print(f"worker {index} does {do}", flush=True)
note("pid", os.getpid())
for other in range(len(starts[0].split(","))):
    while open(f"notes-{other}", "a+").seek(0) or (
        open(f"notes-{other}").read().count("pid") <= start
    ):
        time.sleep(0.01)
if do == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif do == "segfault":
    os.kill(os.getpid(), signal.SIGSEGV)
elif do == "freeze":
    os.kill(os.getpid(), signal.SIGSTOP)
elif do == "child":
    code = "import time; time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", code])
    note("child", child.pid)
    sys.exit(0)
elif do.startswith("late"):  # leaves by itself, after the others
    time.sleep(0.3)
    note("left by itself")
    sys.exit(int(do[4:]))
elif do.isdigit():
    sys.exit(int(do))
time.sleep(30)
sys.exit(3)
