"""Values and slopes of universal logit distillation in f64: makes uld.json.

Run with PyTorch: python uld.py > uld.json
"""

import json

import torch


def uld(student, teacher, temperature):
    """Mean over the positions of the L1 distance of both distributions, sorted, the shorter padded with zeros."""
    q = torch.softmax(student / temperature, dim=-1).sort(dim=-1, descending=True).values
    p = torch.softmax(teacher / temperature, dim=-1).sort(dim=-1, descending=True).values
    width = max(q.shape[-1], p.shape[-1])
    pad = lambda sorted: torch.nn.functional.pad(sorted, (0, width - sorted.shape[-1]))
    return (pad(q) - pad(p)).abs().sum(dim=-1).mean()


def rounded(matrix):
    # Few digits, so that f32 holds almost the same numbers.
    return torch.round(matrix * 256) / 256


torch.manual_seed(7)
torch.set_default_dtype(torch.float64)
student = rounded(torch.randn(6, 9) * 2)
cases = []
for width in (5, 9, 14):
    teacher = rounded(torch.randn(6, width) * 2)
    for temperature in (1.0, 2.0, 0.5):
        leaf = student.clone().requires_grad_()
        mean = uld(leaf, teacher, temperature)
        mean.backward()
        cases.append({
            "teacher": teacher.tolist(),
            "temperature": temperature,
            "mean": mean.item(),
            "gradient": leaf.grad.tolist(),
        })
print(json.dumps({"student": student.tolist(), "cases": cases}, indent=None, separators=(",", ":")))
