"""Training steps whose rows are shared by the ranks of `fastgd.distributed`: gradients are added over ranks, the update
is the same on each."""

import math
import time

import numpy as np

from .._plan import STAGE
from ..core.interrupts import Interrupted, held
from ..errors import warn_user
from .plan import GRADIENT_PHASES
from .totals import penalty_value

# The gradient is added in pieces of at least this many bytes, unless their size is given.
LEAST_BUCKET = 64 * 1024
# Messages, and bytes of a large one, that measure latency and bandwidth; those whose time is measured.
TRIAL_BYTES, TRIALS = 2**22, (20, 3)
# Seconds between two looks at signals and progress.
LOOK = 0.05
# After so many steps a warning names ranks that gain less than this factor; the first steps are not measured.
JUDGED_STEPS, LEAST_GAIN, WARMING = 60, 1.1, 10


class RankSteps:
    """Runs the steps of an executor, in place of `Executor.train`, on all ranks at once.

    ranks: a `training.ranks.Ranks`. settings: a `distributed.Mpi`. parts: how many parts of each minibatch have a
    gradient of their own, at least one for each rank."""

    def __init__(self, executor, ranks, settings, optimizer, parts):
        self.executor, self.ranks, self.optimizer, self.settings = executor, ranks, optimizer, settings
        self.network, self.parts = executor.network, parts
        self.bucket_bytes = settings.bucket_bytes or self._measured()
        self.outer = None  # of local steps: the parameters after the last average, and the momentum of the outer step
        self._plan, self._buckets, self._pieces, self._updater = None, [], [], None
        self._weights, self._is_random = {}, False  # by numbers of rows: weights of losses; whether layers are random
        self._numbers = np.zeros(1)  # the loss
        self._has_rows = True  # whether this rank has some of the minibatch
        self._made, self._computing, self._began = 0, 0.0, 0.0  # steps; seconds of arithmetic; when measuring began

    def _measured(self):
        """Ten times the latency of a sum over ranks times its bandwidth, the same on all ranks: with pieces of this
        size a tenth of the time is latency."""
        seconds = []
        for size, trials in zip((1, TRIAL_BYTES // 8), TRIALS, strict=True):
            array, taken = np.zeros(size), []
            for _ in range(trials):
                start = time.perf_counter()
                self.ranks.wait([self.ranks.start_sum(array)])
                taken.append(time.perf_counter() - start)
            seconds.append(min(taken))
        latency, transfer = np.max(self.ranks.gather(seconds), axis=0)
        return max(LEAST_BUCKET, int(10 * latency * TRIAL_BYTES / transfer))

    # ---- the loop

    def train(self, steps, first=0, pauses=(), notify=None):
        """As `Executor.train`. At pauses and at the end all ranks have the same parameters and statistics."""
        while True:
            is_cut = False
            with held() as received:  # no signal interrupts an update
                self.ranks.signals = received
                try:
                    first, failed = self._train(steps, first, pauses, notify, received)
                except Interrupted:
                    is_cut = True
                finally:
                    self.ranks.signals = ()
            if is_cut:  # sums that are under way cannot be taken up again
                raise KeyboardInterrupt
            if not received:
                return failed

    def _train(self, steps, first, pauses, notify, received):
        """Makes steps until a signal has come; returns the next step, and the index of one that failed or None."""
        pauses = {int(pause) for pause in pauses}
        due, s, looked = {*pauses, len(steps)}, first, time.monotonic()
        while s < len(steps):
            if self.settings.steps_between_syncs == 1:
                failed, end = self._step(steps, s), s + 1
            else:
                end = self._end_of_local_steps(steps, s, due)
                failed = self._local_steps(steps, s, end)
                if failed is None and (end in pauses or end in steps.ends or not self._local_steps_left()):
                    self._average()
            if failed is not None:
                return s, failed
            s = end
            if s in due:
                self._average_statistics()
            if s in due or time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                if notify is not None and notify(s):
                    break
            if received:
                break
        self.executor.note_steps(steps, s)
        return s, None

    def _judge(self):
        """Warns once if the ranks gain nothing, and gives the numbers."""
        self._made += 1
        if self._made == WARMING:
            self._computing, self._began = 0.0, time.perf_counter()
        if self._made != JUDGED_STEPS or self.ranks.rank:
            return
        step = 1e6 * (time.perf_counter() - self._began) / (JUDGED_STEPS - WARMING)
        own = 1e6 * self._computing / (JUDGED_STEPS - WARMING)
        if self.ranks.size * own < LEAST_GAIN * step:
            warn_user(
                f"{self.ranks.size} ranks take {step:,.0f} us for a step, of which the gradient of a rank's rows is "
                f"{own:,.0f} us; one rank would take about {self.ranks.size * own:,.0f} us. Larger minibatches, or "
                "steps_between_syncs, make ranks worth while"
            )

    def _step(self, steps, s):
        """Makes step s; returns s if it failed, with the same result on all ranks."""
        plan = self._current_plan()
        self._judge()
        if self.settings.exact:
            self._sum_exactly(plan, steps, s)
        else:
            self._sum_gradients(plan, steps, s)
        if self.network.l1 or self.network.l2:
            weights = self.network.parameters[: self.network.n_weights]
            penalty_value(self._numbers, weights, self.network.l1, self.network.l2)
        return None if self._update(plan, steps, s, self._numbers[0]) else s

    def _sum_gradients(self, plan, steps, s):
        """Leaves the loss and the gradient of a minibatch, added over ranks. The sums of the last layers are under way
        while the gradients of earlier ones are computed."""
        start = time.perf_counter()
        self._has_rows = has_rows = self._load(plan, steps, s, self.ranks.rank)
        self._numbers[0] = self._run_first(plan, has_rows=has_rows)
        requests = [self.ranks.start_sum(self._numbers)]
        if not has_rows:
            self.network.gradient.fill(0)
        for stages, slices in self._buckets:
            if has_rows and len(stages):
                plan.run_stages(stages, "parameters")
            requests = self.ranks.go_on(requests)
            requests += [self.ranks.start_sum(self.network.gradient[part]) for part in slices]
        self._computing += time.perf_counter() - start
        self.ranks.wait(requests)

    def _sum_exactly(self, plan, steps, s):
        """`_sum_gradients` with sums in a tree of all parts, which does not depend on which rank computes them."""
        rank, size = self.ranks.rank, self.ranks.size
        own = {}
        for part in range(self.parts * rank // size, self.parts * (rank + 1) // size):
            value = np.zeros(self.network.n_parameters + 1, self.network.dtype)
            if self._load(plan, steps, s, part):
                loss = self._run_first(plan)
                for stages, _ in self._buckets:
                    if len(stages):
                        plan.run_stages(stages, "parameters")
                value[:-1], value[-1] = self.network.gradient, loss
            add_node(own, 0, part, value)
        order = sorted(own)
        nodes = {}
        gathered = self.ranks.gather_arrays([own[node] for node in order])
        for names, arrays in zip(self.ranks.gather(order), gathered, strict=True):
            for (level, index), array in zip(names, arrays, strict=True):
                add_node(nodes, level, index, array)
        (total,) = nodes.values()
        self.network.gradient[:], self._numbers[0] = total[:-1], total[-1]

    def _local_steps_left(self):
        """How many local steps are left before the next average; 0 right after the last of them."""
        return -self.optimizer.minibatches % self.settings.steps_between_syncs

    def _end_of_local_steps(self, steps, s, due):
        """The end of the local steps from s on: the next average, which is also due at ends of epochs and at pauses, or
        the end of the steps that are laid out."""
        left = self._local_steps_left() or self.settings.steps_between_syncs
        return min(s + left, *(stop for stop in (*due, *steps.ends.tolist()) if stop > s))

    def _local_steps(self, steps, s, end):
        """Makes steps on this rank's rows alone. Returns the step that failed on some rank."""
        plan, failed, losses, shares = self._current_plan(), None, np.zeros(end - s), np.zeros(end - s)
        if self.outer is None:
            self.outer = self.network.parameters.copy(), np.zeros_like(self.network.parameters)
        for i in range(s, end):
            rows = int(steps.rows[i])
            own = rows * (self.ranks.rank + 1) // self.ranks.size - rows * self.ranks.rank // self.ranks.size
            if not self._load(plan, steps, i, self.ranks.rank, is_local=True):  # no rows, no step
                continue
            loss = self._run_first(plan)
            for stages, _ in self._buckets:
                if len(stages):
                    plan.run_stages(stages, "parameters")
            losses[i - s], shares[i - s] = loss * own / rows, own / rows
            if not self._update(plan, steps, i, loss, is_counted=False):
                failed = i
                break
        results = self.ranks.gather((failed, losses))
        steps.totals[s:end] = np.sum([own for _, own in results], axis=0)
        first = min((own for own, _ in results if own is not None), default=None)
        for i in range(s, end if first is None else first):
            steps.count(i)
        return first

    def _average(self):
        """Replaces the parameters by the outer step from the last average to the one over ranks."""
        p, (start, momentum) = self.network.parameters, self.outer
        self.ranks.wait([self.ranks.start_sum(p)])
        p /= self.ranks.size
        rate, decay = self.settings.outer_learning_rate, self.settings.outer_momentum
        if rate != 1 or decay:
            step = start - p
            momentum *= decay
            momentum += step
            p[:] = start - rate * (step + decay * momentum)
        start[:] = p
        self.executor.note_change()

    def _average_statistics(self):
        """Running statistics are the mean over ranks."""
        statistics = self.network.state[self.network.n_parameters :]
        if statistics.size:
            self.ranks.wait([self.ranks.start_sum(statistics)])
            statistics /= self.ranks.size

    # ---- a step

    def _current_plan(self):
        """The plan in use, with the stages that compute each bucket of its gradient."""
        plan = self.executor.plan
        if plan is not self._plan:
            self._plan, self._updater, self._weights, self._is_random = plan, None, {}, plan.is_random
            self._buckets = list(buckets_of(plan, self.bucket_bytes))
            self._pieces = list(pieces_between_combinations(plan, "rows_of_rank"))
            if self.settings.steps_between_syncs == 1:
                plan.leave_out_penalty()
        return plan

    def _load(self, plan, steps, s, part, *, is_local=False):
        """Sets a part of the rows of a minibatch; returns whether there are any. is_local: whether its losses have the
        weights of a minibatch of its own."""
        rows, start, shift = int(steps.rows[s]), int(steps.starts[s]), 0
        low, high = rows * part // self.parts, rows * (part + 1) // self.parts
        if self.settings.sharded:  # the data are the part
            low, high, shift, rows = 0, rows, part * rows, rows * self.parts
        if low == high:
            return False
        chosen = slice(start + low, start + high)
        if not steps.in_place:
            chosen = steps.order[chosen]
        if steps.weights is None:
            key = high - low, high - low if is_local else rows
            if key not in self._weights:
                self._weights[key] = np.full((key[0], *plan.loss_shape), 1 / plan.losses_in(key[1]), plan.dtype)
            weight = self._weights[key]
        else:
            first = int(steps.weight_starts[s])
            weight = steps.weights[first + low : first + high]
            weight = weight * plan.dtype.type(rows / (high - low)) if is_local else weight
        plan.set_minibatch(steps.x[chosen], steps.y[chosen], weight)
        if self._is_random:
            plan.set_minibatch_number(self.network.minibatches)
        index = plan.buffers["row"]
        if index[0] != low + shift:  # random layers draw as they would for the whole minibatch
            index += low + shift - index[0]
        return True

    def _run_first(self, plan, *, has_rows=True):
        """Runs everything before the gradients of parameters; returns the loss."""
        plan.point("total", plan.buffers["total"])
        for stages, combination in self._pieces:
            if has_rows:
                plan.run_stages(stages, "rows_of_rank")
            if combination is not None:
                self._combine(plan, *combination[1:], has_rows)
        return plan.buffers["total"][0] if has_rows else 0.0

    def _combine(self, plan, function, names, positions, has_rows):
        """Makes vectors of a plan those of all ranks: see `Plan.combine_over_ranks`."""
        vectors = [plan.buffers[name] for name in names]
        own = np.zeros((1 + len(vectors), vectors[0].size))
        if has_rows:
            own[0], own[1:] = positions * plan.rows, vectors
        gathered = self.ranks.gather_array(own)
        with np.errstate(invalid="ignore"):  # numbers that are not finite make the loss so
            combined = function(gathered[:, 0, 0], own[0, 0], *gathered[:, 1:].swapaxes(0, 1))
        for vector, value in zip(vectors, combined, strict=True):
            vector[:] = value

    def _update(self, plan, steps, s, loss, *, is_counted=True):
        """Makes the update of step s from the network's gradient; returns whether loss and gradient allowed it."""
        steps.totals[s] = loss
        limits = steps.parameter_limits
        if not math.isfinite(loss) or (limits is not None and not np.abs(self.network.parameters).max() <= limits[s]):
            return False
        if self._updater is None or not self._updater.run_update(self.optimizer):
            known, _ = plan.values_of_steps(self.optimizer, 1)
            if plan.runner is None:
                if plan.update_in_python(known, "reduced_update"):
                    return False
            else:
                self._updater = plan.make_updater(self.executor.lock, self.optimizer, known, "reduced_update")
                if not self._updater.run_update(self.optimizer):
                    return False
        # Without rows, statistics are those of others, or stay as they are.
        if plan.phase("track") and (self._has_rows or plan.combinations):
            plan.run("track")
        if is_counted:
            steps.count(s)
        return True


def add_node(nodes, level, index, value):
    """Adds a node of a binary tree of sums; two children become their parent. Sums do not depend on the order of the
    calls."""
    while (level, index ^ 1) in nodes:
        other = nodes.pop((level, index ^ 1))
        value = other + value if index & 1 else value + other
        level, index = level + 1, index // 2
    nodes[level, index] = value


def buckets_of(plan, size):
    """(stages, slices) for each bucket of the flat gradient, in the order in which they are computed: what computes it,
    and which parts of the gradient it has. size: least number of bytes of all but the last, which has the biases."""
    flat, first = plan.network.gradient, plan.range_of("parameters", "parameters")[0]
    writers = {}  # by address of an array of the gradient: the last operation that writes it
    operations = [operation for phase in GRADIENT_PHASES for operation in plan.phase(phase)]
    for i, operation in enumerate(operations, first):
        writers[operation.arguments[0].ctypes.data] = i
    finished = {}  # by operation: the slices of weights that are done after it
    for view in plan.network.views(flat).values():
        start = (view.ctypes.data - flat.ctypes.data) // flat.itemsize
        if start < plan.network.n_weights:
            finished.setdefault(writers.get(view.ctypes.data, first - 1), []).append(slice(start, start + view.size))
    begin, done = first, []
    end = first + len(operations)
    for i in range(first - 1, end):
        done = _joined([*done, *finished.get(i, ())])
        if sum(part.stop - part.start for part in done) * flat.itemsize >= size and i + 1 < end:
            yield _stages(plan, begin, i + 1), done
            begin, done = i + 1, []
    yield _stages(plan, begin, end), _joined([*done, slice(plan.network.n_weights, flat.size)])


def pieces_between_combinations(plan, pass_name):
    """(stages, combination) of the pieces of a pass; the combination, of `Plan.combinations`, that follows a piece is
    None for the last."""
    combinations = {plan.operations.index(combination[0]): combination for combination in plan.combinations}
    piece = []
    for begin, end, *closing, flags in plan.stages_of(pass_name).tolist():
        for i in sorted(i for i in combinations if begin <= i < end):
            yield np.array([*piece, (begin, i + 1, 0, 0, flags)], STAGE), combinations[i]
            piece, begin = [], i + 1
        piece.append((begin, end, *closing, flags))
    yield np.array(piece, STAGE), None


def _stages(plan, begin, end):
    """Stages that run the operations [begin, end), those of each phase in a stage of their own."""
    ranges = [plan.range_of(phase, phase) for phase in GRADIENT_PHASES]
    cut = [(max(begin, a), min(end, b)) for a, b in ranges]
    return np.array([(a, b, 0, 0, 0) for a, b in cut if a < b], STAGE)


def _joined(slices):
    """The same elements as the fewest slices."""
    joined = []
    for part in sorted((part for part in slices if part.start < part.stop), key=lambda part: part.start):
        if joined and joined[-1].stop == part.start:
            joined[-1] = slice(joined[-1].start, part.stop)
        else:
            joined.append(part)
    return joined
