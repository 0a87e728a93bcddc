"""A short use of an installed fastgd, for wheels: trains, saves, loads and goes on; imports nothing heavy.

    python tools/smoke.py

Prints the seconds of `import fastgd` beside numpy's, and ends with exit code 1 where something is wrong. It needs what
a wheel needs, and nothing else."""

import subprocess
import sys
import sysconfig
import tempfile
import time

HEAVY = {"matplotlib", "numba", "onnx", "pandas", "pyarrow", "scipy", "sklearn", "tokenizers", "torch"}
# Time of the processor, not of the clock: other processes do not lengthen it as much.
IMPORT = "import time, numpy; begin = time.process_time(); import fastgd; print(time.process_time() - begin)"


def main():
    import numpy as np

    import fastgd

    heavy = HEAVY & set(sys.modules)
    assert not heavy, f"import fastgd imports {heavy}"
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 20)).astype(np.float32)
    y = (X @ rng.normal(size=(20, 3))).argmax(axis=1)
    for threads in (1, 2):
        layers = [fastgd.Dense(32, "relu"), fastgd.BatchNorm(), fastgd.Dense(3)]
        net = fastgd.Network(20, layers, loss="softmax_cross_entropy", num_threads=threads, seed=0)
        history = net.fit(X, y, optimizer=fastgd.Adam(0.01), batch_size=32, epochs=20)
        accuracy = np.mean(net.predict(X).argmax(axis=1) == y)
        assert history.loss[-1] < 0.5 * history.loss[0], history.loss
        assert accuracy > 0.95, accuracy
        with tempfile.TemporaryDirectory() as folder:
            net.save(f"{folder}/net.safetensors")
            loaded, _ = fastgd.load(f"{folder}/net.safetensors")
            assert np.array_equal(loaded.predict(X), net.predict(X))
        if threads == 1:
            alone = net.parameters.copy()
        assert np.array_equal(net.parameters, alone), "two threads give other bits than one"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        assert not sys._is_gil_enabled(), "the GIL is on: by a module, or by PYTHON_GIL"
    print(f"trained to an accuracy of {accuracy:.3f}, saved and loaded, with one thread and with two")
    seconds = min(float(subprocess.check_output([sys.executable, "-c", IMPORT])) for _ in range(10))
    print(f"import beside numpy: {seconds:.3f} s")


if __name__ == "__main__":
    begin = time.perf_counter()
    main()
    print(f"smoke test: PASS in {time.perf_counter() - begin:.1f} s")
