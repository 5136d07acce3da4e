import subprocess
import sys

LOOK = """
import importlib, pkgutil, sys, localfaas
for module in pkgutil.walk_packages(localfaas.__path__, "localfaas."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(sorted({name.partition(".")[0] for name in sys.modules} & {"peer", "torch", "numpy"}))
"""


def test_localfaas_imports_nothing_of_training() -> None:
    done = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
