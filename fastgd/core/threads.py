"""The default number of threads."""

import functools
import os

from ..errors import check_integer, value_error

MAX_THREADS = 256


@functools.cache
def default_threads():
    """FASTGD_NUM_THREADS or OMP_NUM_THREADS if set; else the number of physical cores that this process may run on,
    limited by the CPU quota of its control group."""
    for variable in ("FASTGD_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(variable, "").split(",")[0].strip()
        if text:
            if not text.isdecimal() or int(text) == 0:
                raise value_error(f"environment variable {variable}", "an integer >= 1", repr(text))
            return min(int(text), MAX_THREADS)
    cores = _physical_cores(_allowed_cpus())
    quota = _cgroup_cpus("/sys/fs/cgroup", _own_cgroup())
    return int(max(1, min(cores, quota, MAX_THREADS)))


def check_threads(num_threads):
    """The number, or the default for None; raises unless it is valid."""
    if num_threads is None:
        return default_threads()
    if check_integer("num_threads", num_threads, 1) > MAX_THREADS:
        raise value_error("num_threads", f"None or an integer from 1 to {MAX_THREADS}", num_threads)
    return int(num_threads)


def _allowed_cpus():
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _physical_cores(cpus, topology="/sys/devices/system/cpu"):
    """The number of physical cores of these logical processors; each counts as one if the system does not say."""
    cores = {_read(topology, f"cpu{cpu}", "topology", "thread_siblings_list") or cpu for cpu in cpus}
    return len(cores)


def _own_cgroup():
    """Path of this process's control group (version 2) below its root."""
    lines = (_read("/proc/self/cgroup") or "").splitlines()
    return next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")


def _cgroup_cpus(root, group):
    """The smallest quota, in processors, of the group and its parents; infinite without one."""
    quota = float("inf")
    folder = os.path.normpath(os.path.join(root, group))
    while os.path.commonpath([root, folder]) == root:
        limit, _, period = (_read(folder, "cpu.max") or "max").partition(" ")  # version 2
        if limit == "max":
            limit, period = _read(folder, "cpu", "cpu.cfs_quota_us"), _read(folder, "cpu", "cpu.cfs_period_us")
        if limit and period and int(limit) > 0:
            quota = min(quota, max(1.0, int(limit) / int(period)))
        folder = os.path.dirname(folder)
    return quota


def _read(*path):
    try:
        with open(os.path.join(*path)) as file:
            return file.read().strip()
    except OSError:
        return None
