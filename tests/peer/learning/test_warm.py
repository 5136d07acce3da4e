import os
import subprocess
import sys

PROGRAM = """
import os, sys
import peer.learning.warm
import torch
assert torch.get_num_threads() == 1
assert len(os.listdir("/proc/self/task")) == 1, os.listdir("/proc/self/task")
installed = {name.partition(".")[0] for name in sys.modules}
assert not installed & {"torchvision", "minio", "requests", "click", "flask"}, installed
child = os.fork()
if child == 0:
    torch.randn(64, 64).matmul(torch.randn(64, 64)).sum()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_warm_parent_has_one_task_and_only_what_functions_need() -> None:
    environment = {
        **os.environ,
        **dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1"),
    }

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
