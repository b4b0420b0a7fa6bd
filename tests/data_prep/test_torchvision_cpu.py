import subprocess
import sys


def test_crops_are_prepared_without_importing_torch() -> None:
    code = "import sys, data_prep.prepare; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
