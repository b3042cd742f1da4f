"""The shapes of gpu.rs in PyTorch alone: scaled dot-product attention, fused AdamW; bf16 autocast over f32 master weights, or
f32 (products in tf32). The frozen teacher is held in the student's precision.

Needs torch with CUDA and nothing else. Prints the same columns as gpu.rs.
"""

import argparse
import statistics
import sys
import time

ROWS, LENGTH = 8, 1024
SHAPES = {
    "smollm2-135m": dict(layers=30, hidden=576, heads=9, kv_heads=3, intermediate=1536, vocabulary=49152, tied=True),
    "llama-1.1b": dict(layers=22, hidden=2048, heads=32, kv_heads=4, intermediate=5632, vocabulary=32000, tied=False),
}

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError:
    sys.exit("PyTorch is not installed")
if not torch.cuda.is_available():
    sys.exit("this PyTorch sees no CUDA device")


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        hidden, width = shape["hidden"], shape["hidden"] // shape["heads"]
        self.heads, self.kv_heads, self.width = shape["heads"], shape["kv_heads"], width
        self.input_norm = nn.RMSNorm(hidden, eps=1e-5)
        self.post_norm = nn.RMSNorm(hidden, eps=1e-5)
        self.q = nn.Linear(hidden, self.heads * width, bias=False)
        self.k = nn.Linear(hidden, self.kv_heads * width, bias=False)
        self.v = nn.Linear(hidden, self.kv_heads * width, bias=False)
        self.o = nn.Linear(self.heads * width, hidden, bias=False)
        self.gate = nn.Linear(hidden, shape["intermediate"], bias=False)
        self.up = nn.Linear(hidden, shape["intermediate"], bias=False)
        self.down = nn.Linear(shape["intermediate"], hidden, bias=False)

    def forward(self, x, cosine, sine):
        rows, length, _ = x.shape
        y = self.input_norm(x)
        q = self.q(y).view(rows, length, self.heads, self.width).transpose(1, 2)
        k = self.k(y).view(rows, length, self.kv_heads, self.width).transpose(1, 2)
        v = self.v(y).view(rows, length, self.kv_heads, self.width).transpose(1, 2)
        q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
        shared = self.heads // self.kv_heads
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(rows, length, -1))
        y = self.post_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def rotate(x, cosine, sine):
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), -1).to(x.dtype)


class Decoder(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.embedding = nn.Embedding(shape["vocabulary"], shape["hidden"])
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape["layers"]))
        self.norm = nn.RMSNorm(shape["hidden"], eps=1e-5)
        self.head = nn.Linear(shape["hidden"], shape["vocabulary"], bias=False)
        if shape["tied"]:
            self.head.weight = self.embedding.weight
        width = shape["hidden"] // shape["heads"]
        frequencies = 1e4 ** (-torch.arange(0, width, 2) / width)
        angles = torch.arange(LENGTH)[:, None] * frequencies[None]
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens):
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, self.cosine, self.sine)
        return self.head(self.norm(x))


def sft(logits, labels, teacher):
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def forward_kl(logits, labels, teacher):
    log_q, log_p = F.log_softmax(logits.float(), -1), F.log_softmax(teacher.float(), -1)
    return F.kl_div(log_q, log_p, log_target=True, reduction="sum")


def measure(name, shape, work, loss_of, with_teacher, wanted):
    bf16 = wanted.precision == "bf16"
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(1)
    model = Decoder(shape).cuda()
    teacher = Decoder(shape).cuda().requires_grad_(False) if with_teacher else None
    if teacher and bf16:
        teacher.bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens = torch.randint(0, shape["vocabulary"], (ROWS, LENGTH + 1), device="cuda")

    def step():
        optimizer.zero_grad()
        value = 0.0
        for first in range(0, ROWS, wanted.micro_rows):
            rows = slice(first, first + wanted.micro_rows)
            with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
                logits = model(tokens[rows, :-1]).flatten(0, 1)
                with torch.no_grad():
                    said = teacher(tokens[rows, :-1]).flatten(0, 1) if teacher else None
            loss = loss_of(logits, tokens[rows, 1:].flatten(), said) / (ROWS * LENGTH)
            loss.backward()
            value = value + loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return value.item(), norm.item()

    times = []
    for number in range(wanted.steps + 3):
        torch.cuda.synchronize()
        started = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if number >= 3:
            times.append(time.perf_counter() - started)
    median = statistics.median(times)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{name:<14} {work:<26} {wanted.precision:<9} {parameters / 1e6:>8.0f} M {median * 1e3:>7.0f} ms "
        f"{ROWS * LENGTH / median:>10.0f} {torch.cuda.max_memory_reserved() / 2**30:>6.1f} GiB",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--micro-rows", type=int, default=ROWS)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--precision", choices=("f32", "bf16"), default="bf16")
    wanted = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}")
    for name, shape in SHAPES.items():
        if wanted.shape in (None, name):
            for work, loss_of, with_teacher in (("SFT", sft, False), ("forward KL, frozen teacher", forward_kl, True)):
                try:
                    measure(name, shape, work, loss_of, with_teacher, wanted)
                except torch.cuda.OutOfMemoryError:
                    print(f"{name:<14} {work}: out of memory with {wanted.micro_rows} rows at once")
