"""Deep Q-learning of examples/cartpole.py with fastgd and with torch: microseconds per step of the environment.

    taskset -c 0 python benchmarks/bench_dqn.py       torch, if it is installed, comes with the extra `bench`

Both agents have the same initial weights and run the same loop with the same random numbers, one thread each. They take
turns, and each continues where it stopped; figures are medians. "shared" is the loop without a network: environment,
exploration, memory and the drawing of minibatches. At the start both learn from the same minibatches, and their values
must agree."""

import argparse
import pathlib
import statistics
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
import cartpole

try:
    import torch
except ImportError:
    torch = None

CHECKED_UPDATES, TOLERANCE = 20, 1e-4


class NoAgent:
    """Always pushes to the left, and learns nothing."""

    def __init__(self):
        self.constant = np.array([[1, 0]], np.float32)

    def values(self, states):
        return self.constant

    def learn(self, *minibatch):
        pass


class TorchAgent:
    """`cartpole.Agent` in torch, with the weights of a network of fastgd."""

    def __init__(self, network):
        self.network, self.target = self.copy_of(network), self.copy_of(network)
        self.parameters, self.target_parameters = [list(n.parameters()) for n in (self.network, self.target)]
        rate = cartpole.LEARNING_RATE
        self.optimizer = torch.optim.Adam(self.parameters, lr=rate.learning_rate, fused=True)
        self.schedule = torch.optim.lr_scheduler.LinearLR(
            self.optimizer, 1.0, rate.final / rate.learning_rate, rate.total_steps
        )

    @staticmethod
    def copy_of(network):
        arrays = network.views()
        layers = []
        for i in (1, 2, 3):
            weights = torch.from_numpy(arrays[f"w{i}"].T.copy())
            layer = torch.nn.Linear(weights.shape[1], weights.shape[0])
            with torch.no_grad():
                layer.weight.copy_(weights)
                layer.bias.copy_(torch.from_numpy(arrays[f"b{i}"]))
            layers += [layer, torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])

    def values(self, states):
        with torch.no_grad():
            return self.network(torch.from_numpy(states)).numpy()

    def learn(self, *minibatch):
        states, actions, rewards, next_states, continues = map(torch.from_numpy, minibatch)
        with torch.no_grad():
            best = self.network(next_states).argmax(dim=1, keepdim=True)
            future = continues * self.target(next_states).gather(1, best).squeeze(1)
            goals = (1 - cartpole.DISCOUNT) * rewards + cartpole.DISCOUNT * future
        values = self.network(states).gather(1, actions.unsqueeze(1)).squeeze(1)  # faster than values[rows, actions]
        loss = torch.nn.functional.smooth_l1_loss(values, goals)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.target_parameters, self.parameters, cartpole.TARGET_RATE)


class Run:
    """An agent, its memory and its random numbers, which continue from turn to turn."""

    def __init__(self, agent):
        self.agent, self.memory, self.rng = NoAgent(), cartpole.Memory(), np.random.default_rng(0)
        self.microseconds(cartpole.EXPLORATION_STEPS)  # at random
        self.agent = agent

    def microseconds(self, steps):
        """Microseconds per step of a turn of this many steps."""
        begin = time.perf_counter()
        for _ in cartpole.train(self.agent, self.memory, self.rng, steps):
            pass
        return 1e6 * (time.perf_counter() - begin) / steps


def check_agreement(agents, memory):
    """Raises AssertionError unless all agents have the same values after each of the first updates."""
    rng = np.random.default_rng(1)
    for update in range(CHECKED_UPDATES):
        minibatch = memory.sample(rng)
        for agent in agents.values():
            agent.learn(*minibatch)
        first, *others = (agent.values(minibatch[0]) for agent in agents.values())
        for other in others:
            np.testing.assert_allclose(other, first, rtol=TOLERANCE, atol=TOLERANCE, err_msg=f"update {update + 1}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="steps of a turn")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each agent")
    arguments = parser.parse_args()
    agents = {"fastgd": cartpole.Agent(seed=0)}
    if torch:
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)  # as fastgd does; Adam's averages become small where units of relu are 0
        agents["torch"] = TorchAgent(agents["fastgd"].network)
    runs = {name: Run(agent) for name, agent in agents.items()} | {"shared": Run(NoAgent())}
    check_agreement(agents, runs["shared"].memory)
    samples = {name: [] for name in runs}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            samples[name].append(run.microseconds(arguments.steps))
    us = {name: statistics.median(values) for name, values in samples.items()}
    for name, value in us.items():
        print(f"{name:8} {value:7.1f} us per step")
    if torch:
        both = us["torch"] / us["fastgd"], (us["torch"] - us["shared"]) / (us["fastgd"] - us["shared"])
        print("torch / fastgd: {:.1f}, without what they share {:.1f}".format(*both))


if __name__ == "__main__":
    main()
