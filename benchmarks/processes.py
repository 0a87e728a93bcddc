"""Processes that answer a benchmark's questions, a line for each, so that versions and libraries can take turns."""

import importlib
import importlib.machinery
import json
import os
import subprocess
import sys
import time

PACKAGE = "BENCHMARK_PACKAGE"  # environment variable: the folder to import fastgd from
AVX2 = {  # environment variables that limit fastgd, OpenBLAS, MKL, oneDNN and torch to AVX2
    "FASTGD_ISA": "v3",
    "OPENBLAS_CORETYPE": "Haswell",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
}


class Process:
    """A script of this folder in a process with `threads` threads; it calls `serve`. With `package`, it imports fastgd
    from that folder."""

    def __init__(self, command, threads, package=None):
        variables = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "FASTGD_NUM_THREADS")
        environment = os.environ | dict.fromkeys(variables, str(threads))
        environment["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"
        environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        environment.pop(PACKAGE, None)
        if package:
            environment[PACKAGE] = os.path.abspath(package)
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, command, argument=""):
        print(command, argument, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with code {self.process.wait()}")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Finder:
    """Imports fastgd from a folder only. An editable install has a finder, too, which comes before PYTHONPATH."""

    def __init__(self, folder):
        self.folder = folder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != "fastgd":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, [self.folder] if name == "fastgd" else path)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r} in {self.folder}", name=name)
        return spec


def serve(make):
    """Makes a function `answer`, and answers each line of standard input, "COMMAND ARGUMENT", with
    answer(command, argument) as a line of JSON. What libraries print goes to standard error."""
    if PACKAGE in os.environ:
        sys.meta_path.insert(0, Finder(os.environ[PACKAGE]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answer = make()
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        print(json.dumps(answer(command, argument)), file=answers, flush=True)


def multiply_add_rate(dtype="float32", clock=time.perf_counter):
    """Rate of fused multiply-adds in registers, GFLOP/s."""
    import fastgd

    compiled = importlib.import_module(f"fastgd._kernels_{fastgd.core.kernel.variant()}_{dtype}")
    start = clock()
    operations = compiled.fused_multiply_adds(400_000)
    return operations / (clock() - start) / 1e9


def check_names(parser, option, names, known):
    """An error that names the option unless its comma-separated names are known."""
    for name in names.split(","):
        if name not in known:
            parser.error(f"--{option}: expected names out of {', '.join(known)}, got {name!r}")


def choose_instructions(parser, avx2):
    """Limits this process, and those it starts, to AVX2 if asked; an error if the environment has chosen already, since
    users have no such variables."""
    chosen = [name for name in AVX2 if name in os.environ]
    if chosen:
        parser.error(f"environment variable {chosen[0]}: expected none that selects instructions; see --avx2")
    if avx2:
        os.environ.update(AVX2)


def pin(count):
    """Pins this process, and those it starts, to `count` processors."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
