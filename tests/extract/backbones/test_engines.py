from pathlib import Path

from support import run_process

TWO_DEVICES = """
import sys
import numpy as np
from onepass.extract.frameworks import import_keras
import_keras()
tf = sys.modules["tensorflow"]
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
from onepass.extract.backbones import load as loading
from onepass.extract.backbones import engines

images = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)
def load():
    return loading.load_backbone({tiny!r}, engine="tensorflow", precision="float32", batch_size=5)
one = load()
strategy = engines.choose_strategy(["CPU:0", "CPU:1"])
loading.choose_strategy = lambda: strategy
two = load()
np.testing.assert_array_equal(two.rows(images), one.rows(images))
np.testing.assert_array_equal(two.rows(images[:1]), one.rows(images[:1]))
assert two.spec == one.spec
print(strategy.num_replicas_in_sync, one.engine.batch_size, two.engine.batch_size)
"""


def test_rows_of_two_devices_equal_those_of_one(tmp_path: Path, tiny_file: Path):
    done = run_process("python", "-c", TWO_DEVICES.format(tiny=str(tiny_file)), cwd=tmp_path)
    assert done.stdout == "2 5 6\n", done.stderr
