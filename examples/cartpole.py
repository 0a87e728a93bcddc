"""Deep Q-learning learns to balance a pole on a cart, in seconds: python examples/cartpole.py [SEED]

A cart is pushed left or right every 0.02 s; each push that keeps the pole upright earns 1, up to 500 in an episode. The
task is from Barto, Sutton & Anderson 1983, doi:10.1109/TSMC.1983.6313077, with the limits of CartPole-v1. It counts as
solved once 100 episodes in a row have a mean return of at least 475.

A network estimates Q(state, action), the weighted mean of the rewards to come, where the reward after k more steps has
weight (1 - DISCOUNT) DISCOUNT^k (Mnih et al. 2015, doi:10.1038/nature14236). The loss is computed here, outside the
network: `forward` gives the values, `backward` takes the gradient of the loss with respect to them, and the optimizer
updates the parameters."""

import math
import sys
import time
from collections import deque

import numpy as np

from fastgd import Adam, Dense, Network, schedules

GRAVITY, CART_MASS, POLE_MASS, HALF_LENGTH, FORCE, SECONDS = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
MASS, POLE_MOMENT = CART_MASS + POLE_MASS, POLE_MASS * HALF_LENGTH
LARGEST_X, LARGEST_ANGLE, LONGEST_EPISODE = 2.4, math.radians(12), 500
SOLVED, MOST_STEPS = 475, 150_000

BATCH, CAPACITY, RANDOM_STEPS, EXPLORATION_STEPS, LEAST_EPSILON = 64, 50_000, 1_000, 5_000, 0.01
DISCOUNT, TARGET_RATE = 0.99, 0.01
LEARNING_RATE = schedules.polynomial(1e-3, total_steps=60_000)  # falls linearly to 0
ROWS = np.arange(BATCH)


def push(state, action):
    """The state (x, velocity, angle, angular velocity) after a push to the left (action 0) or to the right (1)."""
    x, velocity, angle, spin = state
    sine, cosine = math.sin(angle), math.cos(angle)
    pushed = ((FORCE if action else -FORCE) + POLE_MOMENT * spin * spin * sine) / MASS
    turned = (GRAVITY * sine - cosine * pushed) / (HALF_LENGTH * (4 / 3 - POLE_MASS * cosine * cosine / MASS))
    moved = pushed - POLE_MOMENT * turned * cosine / MASS
    return x + SECONDS * velocity, velocity + SECONDS * moved, angle + SECONDS * spin, spin + SECONDS * turned


def has_fallen(state):
    return abs(state[0]) > LARGEST_X or abs(state[2]) > LARGEST_ANGLE


def first_state(rng):
    return tuple(rng.uniform(-0.05, 0.05, 4).tolist())


class Memory:
    """The last CAPACITY transitions, in a ring of arrays. `added` counts all transitions."""

    def __init__(self):
        self.states, self.next_states = np.zeros((2, CAPACITY, 4), np.float32)
        self.rewards, self.continues = np.zeros((2, CAPACITY), np.float32)
        self.actions, self.added = np.zeros(CAPACITY, np.int64), 0

    def add(self, state, action, reward, next_state, ended):
        i = self.added % CAPACITY
        self.states[i], self.actions[i], self.rewards[i] = state, action, reward
        self.next_states[i], self.continues[i] = next_state, not ended
        self.added += 1

    def sample(self, rng):
        """A random minibatch: states, actions, rewards, next states, and 0 where the episode ended, else 1."""
        rows = rng.integers(min(self.added, CAPACITY), size=BATCH)
        arrays = self.states, self.actions, self.rewards, self.next_states, self.continues
        return [array.take(rows, axis=0) for array in arrays]


class Agent:
    """Double DQN (van Hasselt et al. 2016, arXiv:1509.06461), whose target network follows by soft updates."""

    def __init__(self, seed):
        layers = [Dense(64, "relu"), Dense(64, "relu"), Dense(2, weight_init="zeros")]  # Q begins as 0
        self.network = Network(4, layers, loss="huber", seed=seed)
        self.target = self.network.like()
        self.optimizer = Adam(LEARNING_RATE)

    def values(self, states):
        """Q (rows, 2)."""
        return self.network.forward(states)

    def learn(self, states, actions, rewards, next_states, continues):
        """Moves Q(state, action) towards (1 - DISCOUNT) reward + DISCOUNT Q(next state, best action there). The online
        network chooses that action, and the target network gives its Q."""
        best = self.network.forward(next_states).argmax(axis=1)
        future = continues * self.target.forward(next_states)[ROWS, best]
        goals = (1 - DISCOUNT) * rewards + DISCOUNT * future
        values = self.network.forward(states, training=True)
        gradient = np.zeros_like(values)  # of the mean Huber loss: only the values of the actions taken count
        gradient[ROWS, actions] = (values[ROWS, actions] - goals).clip(-1, 1) / BATCH
        self.network.backward(gradient, input_gradient=False)
        self.optimizer.step(self.network)
        self.target.copy_from(self.network, TARGET_RATE)


def train(agent, memory, rng, steps):
    """Makes this many steps, each with an update; yields the return of each episode when it ends."""
    state, total, row = first_state(rng), 0, np.empty((1, 4), np.float32)
    for _ in range(steps):
        epsilon = max(LEAST_EPSILON, 1 - memory.added / EXPLORATION_STEPS)
        if rng.random() < epsilon:
            action = int(rng.integers(2))
        else:
            row[0] = state
            action = int(agent.values(row).argmax())
        next_state = push(state, action)
        ended, total = has_fallen(next_state), total + 1
        memory.add(state, action, 1, next_state, ended)
        state = next_state
        if memory.added >= RANDOM_STEPS:
            agent.learn(*memory.sample(rng))
        if ended or total == LONGEST_EPISODE:
            yield total
            state, total = first_state(rng), 0


def evaluate(agent, rng, episodes=20):
    """Mean return of the greedy policy."""
    total = 0
    for _ in range(episodes):
        state = first_state(rng)
        for _ in range(LONGEST_EPISODE):
            state = push(state, int(agent.values(np.array([state], np.float32)).argmax()))
            total += 1
            if has_fallen(state):
                break
    return total / episodes


def main(seed=0):
    agent, memory, rng = Agent(seed), Memory(), np.random.default_rng(seed)
    begin, returns = time.perf_counter(), deque(maxlen=100)
    for episode, total in enumerate(train(agent, memory, rng, MOST_STEPS), 1):
        returns.append(total)
        mean, seconds = sum(returns) / len(returns), time.perf_counter() - begin
        if episode % 50 == 0:
            print(f"episode {episode:4}, step {memory.added:6,}, {seconds:5.1f} s: mean return {mean:5.1f}")
        if len(returns) == 100 and mean >= SOLVED:
            print(f"solved in {episode} episodes, {memory.added:,} steps, {seconds:.1f} s")
            break
    else:
        sys.exit(f"not solved in {MOST_STEPS:,} steps")
    print(f"greedy policy: mean return {evaluate(agent, rng):.1f} in 20 episodes")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
