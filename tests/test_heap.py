"""The memory of processes that serve for long."""

import subprocess
import sys

import pytest

SEEN = """
import importlib, sys
importlib.import_module(sys.argv[1])
from shared.heap import share_heaps
share_heaps()
from PIL import Image
for _ in range(3):
    Image.new("RGB", (2000, 1500)).close()
print(Image.core.get_stats()["reused_blocks"])
"""


@pytest.mark.parametrize("program", ["api.__main__", "worker.__main__"])
def test_a_picture_takes_the_memory_of_the_one_before(program: str) -> None:
    reused = subprocess.run([sys.executable, "-c", SEEN, program], check=True, capture_output=True, text=True).stdout
    assert int(reused) == 2, "of three pictures the first took new memory; or Pillow was imported too early"
