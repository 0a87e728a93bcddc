"""Tokens a second of `generate` beside torch, and the memory of a training step of GPT-2 beside `memory_estimate`.

    python benchmarks/bench_generation.py
    python benchmarks/bench_generation.py --cells char --threads 1 --peers fastgd

Weights are random: a GPT for characters (context 64, 4 layers, 4 heads, width 128), and one of GPT-2's size (124M,
context 1024, after a prompt of 64 tokens). Figures are medians; the peers take turns, each in a process of its own with
so many processors. The time of the prompt is left out. Tokens are drawn with temperature 1 from all; beforehand the
peers continue the prompt with the most probable tokens, which must agree.

torch evaluates the same network, with a cache of keys and values that grows by torch.cat, or without one: then it
computes the whole sequence for each token. Like fastgd it goes on from the last half of a context that is full.

memory: the resident memory that two training steps of GPT-2 with AdamW (batch 4, context 64) need at most, beside what
the process had after its imports, with float32 and with 8-bit state. (The first step makes the optimizer's state.)
"""

import argparse
import importlib.util
import resource
import statistics
import sys
import time

import numpy as np
from processes import Process, check_names, pin, serve

# vocabulary, context, layers, heads, width; tokens of the prompt, and after it
CELLS = {"char": ((65, 64, 4, 4, 128), 1, 2000), "gpt2": ((50257, 1024, 12, 12, 768), 64, 16)}
PEERS = ("fastgd", "torch with a cache", "torch without a cache")
COMPARED = 12  # most probable tokens that must agree
BATCH, CONTEXT = 4, 64  # of the training step
STATES = {"float32": None, "8bit": "8bit"}  # of AdamW, state_dtype


def network_of(cell, context=None, **options):
    import fastgd

    vocabulary, positions, *sizes = CELLS[cell][0]
    return fastgd.models.gpt(vocabulary, context or positions, *sizes, seed=1, **options)


def torch_generator(network, is_cached):
    """A function generate(prompt, length, temperature) of torch for a network of `fastgd.models.gpt`."""
    import torch
    from torch.nn import functional
    from twins_gpt import blocks_of, torch_gpt

    module, heads, context = torch_gpt(network), blocks_of(network)[1], network.input_shape[0]

    def block_outputs(block, x, past):
        """Outputs, and (keys, values) of all positions so far."""
        rows, t, n = x.shape
        qkv = block.qkv(block.norm1(x)).split(n, 2)
        q, k, v = (part.view(rows, t, heads, n // heads).transpose(1, 2) for part in qkv)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        x = x + block.out(y.transpose(1, 2).reshape(rows, t, n))
        return x + block.projection(functional.gelu(block.hidden(block.norm2(x)), approximate="tanh")), (k, v)

    @torch.inference_mode()
    def generate(prompt, length, temperature):
        tokens, first, kept, known = list(prompt), 0, [None] * len(module.blocks), 0
        for _ in range(length):
            if len(tokens) - first > context:
                first = len(tokens) - context // 2
                kept, known = [None] * len(module.blocks), 0
            x = torch.tensor([tokens[first + known :]])
            z = functional.embedding(x, module.tokens) + module.positions[known : known + x.shape[1]]
            for i, block in enumerate(module.blocks):
                z, new = block_outputs(block, z, kept[i])
                if is_cached:
                    kept[i] = new
            known += x.shape[1] if is_cached else 0
            z = functional.linear(module.norm(z[0, -1]), module.tokens)
            token = torch.multinomial(torch.softmax(z / temperature, 0), 1) if temperature else z.argmax()
            tokens.append(int(token))
        return tokens[len(prompt) :]

    return generate


class Peer:
    """Answers "cell NAME" with the most probable tokens after the prompt; "run LENGTH" with tokens a second."""

    def __init__(self, name, threads):
        self.name, self.threads = name, threads
        pin(threads)
        if name != "fastgd":
            import torch

            torch.set_num_threads(threads)

    def __call__(self, command, argument):
        if command == "cell":
            vocabulary, prompt = CELLS[argument][0][0], CELLS[argument][1]
            self.prompt = np.random.default_rng(0).integers(0, vocabulary, prompt).tolist()
            network = network_of(argument, num_threads=self.threads)
            # With the initial weights the most probable token is the one that was just read.
            network.parameters[:] = np.random.default_rng(1).normal(size=network.n_parameters) * 0.1
            if self.name == "fastgd":
                self.generate = lambda prompt, length, t: network.generate(prompt, length, temperature=t).tolist()
            else:
                self.generate = torch_generator(network, self.name == "torch with a cache")
            return self.generate(self.prompt, COMPARED, 0)
        length = int(argument)
        return length / (self._seconds(1 + length) - self._seconds(1))

    def _seconds(self, length):
        start = time.perf_counter()
        self.generate(self.prompt, length, 1.0)
        return time.perf_counter() - start


def rates(cell, peers, threads, rounds, length):
    """Median tokens a second by peer."""
    made = {}
    try:
        for name in peers:
            made[name] = Process([__file__, "--serve", name, "--threads", str(threads)], threads)
        tokens = {name: one.ask("cell", cell) for name, one in made.items()}
        for name in peers:
            if tokens[name] != tokens[peers[0]]:
                raise RuntimeError(f"{cell}: {name} made {tokens[name]}, {peers[0]} {tokens[peers[0]]}")
        found = [{name: one.ask("run", length) for name, one in made.items()} for _ in range(rounds)]
    finally:
        for one in made.values():
            one.close()
    return {name: statistics.median(each[name] for each in found) for name in peers}


def peak():
    """The most resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory(command, state):
    """[memory_estimate, measured] in bytes."""
    import fastgd

    before = peak()
    network = network_of("gpt2", CONTEXT)
    optimizer = fastgd.AdamW(1e-3, state_dtype=STATES[state])
    estimate = network.memory_estimate(BATCH, optimizer)["total"]
    x, y = np.random.default_rng(0).integers(0, network.vocabulary, (2, BATCH, CONTEXT))
    for _ in range(2):
        network.train_step(x, y, optimizer)
    return [estimate, peak() - before]


def print_memory():
    print("\n| state of AdamW | memory_estimate, MB | measured, MB |\n|---|---|---|")
    for state in STATES:
        process = Process([__file__, "--serve", "memory"], 1)
        try:
            print(f"| {state} |", " | ".join(f"{n / 1e6:,.0f}" for n in process.ask("memory", state)), "|", flush=True)
        finally:
            process.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", default="char,gpt2,memory", help="comma-separated")
    parser.add_argument("--peers", help="comma-separated; by default all that are installed")
    parser.add_argument("--threads", default="1,2", help="comma-separated numbers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, help="tokens of a call, instead of each cell's own number")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        is_peer = arguments.serve in PEERS
        return serve(lambda: Peer(arguments.serve, int(arguments.threads)) if is_peer else memory)
    check_names(parser, "cells", arguments.cells, [*CELLS, "memory"])
    if arguments.peers is None:
        peers = PEERS if importlib.util.find_spec("torch") else PEERS[:1]
    else:
        check_names(parser, "peers", arguments.peers, PEERS)
        peers = arguments.peers.split(",")
    cells = [cell for cell in arguments.cells.split(",") if cell in CELLS]
    if cells:
        print(f"tokens a second\n\n| network | threads | {' | '.join(peers)} |\n|---|---|{'---|' * len(peers)}")
    for cell in cells:
        for threads in map(int, arguments.threads.split(",")):
            found = rates(cell, peers, threads, arguments.rounds, arguments.length or CELLS[cell][2])
            print(
                f"| {cell} | {threads} |",
                " | ".join(f"{found[name]:,.{0 if found[name] >= 100 else 1}f}" for name in peers),
                "|",
                flush=True,
            )
    if "memory" in arguments.cells.split(","):
        print_memory()


if __name__ == "__main__":
    main()
