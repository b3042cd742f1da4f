"""The models of training.rs in PyTorch and transformers: tokens a second of one step, forward and backward apart.

Needs torch and transformers; uses as many threads as there are cores.
"""

import os
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

LENGTH = 128
MODELS = [
    ("quickstart 1.3 M", 16, dict(num_hidden_layers=4, hidden_size=160, num_attention_heads=4, vocab_size=512)),
    ("7 M", 16, dict(num_hidden_layers=6, hidden_size=256, num_attention_heads=4, vocab_size=4096)),
    ("SmolLM2-135M, 1 × 128", 1, dict(
        num_hidden_layers=30, hidden_size=576, num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536,
        vocab_size=49152, tie_word_embeddings=True,
    )),
]


def median(times, work):
    work()
    measured = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        measured.append(time.perf_counter() - started)
    return statistics.median(measured)


def measure(name, rows, shape):
    config = LlamaConfig(
        **dict(
            intermediate_size=shape["hidden_size"] * 8 // 3 // 16 * 16,
            num_key_value_heads=shape["num_attention_heads"],
            max_position_embeddings=512,
            tie_word_embeddings=False,
        )
        | shape
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens = torch.randint(0, config.vocab_size, (rows, LENGTH))

    def forward():
        with torch.no_grad():
            model(tokens)

    def gradients():
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()

    def step():
        gradients()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    ahead, back, whole = median(7, forward), median(7, gradients), median(9, step)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{name:<22} {parameters:>10} {ahead * 1e3:>7.1f}ms {(back - ahead) * 1e3:>7.1f}ms "
        f"{(whole - back) * 1e3:>7.1f}ms {rows * LENGTH / whole:>10.0f}"
    )


torch.set_num_threads(os.cpu_count())
print(f"{'model':<22} {'parameters':>10} {'forward':>9} {'backward':>9} {'update':>9} {'tokens/s':>10}")
for name, rows, shape in MODELS:
    measure(name, rows, shape)
