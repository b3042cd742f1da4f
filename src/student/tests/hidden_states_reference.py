"""Makes golden/hidden_states.json: PyTorch's values and gradients of the losses on hidden states, in f64.

    python src/student/tests/hidden_states_reference.py

First the two formulas on small matrices, then a step of two models that transformers loads: `llama-gqa-tied` learns from
`stories260k`, which is wider and deeper. Numbers that a test makes again itself are made by formulas in whole numbers.
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

GOLDEN = pathlib.Path(__file__).parent / "golden"


def grid(rows: int, columns: int, one: int, other: int) -> torch.Tensor:
    """Numbers between −0.5 and 0.5, the same in the test."""
    places = [[(row * one + column * other) % 23 - 11 for column in range(columns)] for row in range(rows)]
    return (torch.tensor(places, dtype=torch.float64) / 22).float().double()


def mse(student, teacher):
    return F.mse_loss(student, teacher)


def cosine(student, teacher):
    return (1 - F.cosine_similarity(student, teacher, dim=-1)).mean()


LOSSES = {"hidden-mse": mse, "hidden-cosine": cosine}


def formulas() -> dict:
    found = {}
    for name, loss in LOSSES.items():
        student, teacher = grid(5, 3, 7, 5).requires_grad_(), grid(5, 4, 3, 11)
        projection = grid(4, 3, 2, 9).requires_grad_()
        value = loss(student @ projection.T, teacher)
        value.backward()
        found[name] = {
            "value": value.item(),
            "student": student.grad.flatten().tolist(),
            "projection": projection.grad.flatten().tolist(),
        }
    return found


class Streams:
    """A model with its residual streams: the embedding, then what each layer gives. (transformers' own list has the last
    one normed.)"""

    def __init__(self, name: str):
        self.model = AutoModelForCausalLM.from_pretrained(GOLDEN / name, dtype=torch.float32).double().eval()
        self.streams = []
        body = self.model.model
        body.embed_tokens.register_forward_hook(lambda _, __, output: self.streams.append(output))
        for layer in body.layers:
            layer.register_forward_hook(
                lambda _, __, output: self.streams.append(output[0] if isinstance(output, tuple) else output)
            )

    def __call__(self, ids):
        self.streams.clear()
        logits = self.model(ids).logits
        return logits, list(self.streams)


def step() -> dict:
    student, teacher = Streams("llama-gqa-tied"), Streams("stories260k")
    ids = torch.tensor(json.loads((GOLDEN / "llama-gqa-tied/expected.json").read_text())["ids"])
    inputs, targets = ids[:, :-1], ids[:, 1:]
    counted = torch.tensor([[(row + place) % 3 != 0 for place in range(inputs.shape[1])] for row in range(len(ids))])
    logits, of_student = student(inputs)
    with torch.no_grad():
        _, of_teacher = teacher(inputs)
    compared = {"hidden-mse": [(1, 2), (3, 5)], "hidden-cosine": [(0, 0), (3, 4)]}
    weights = {"hidden-mse": 0.5, "hidden-cosine": 2.0}
    projections, values = {}, {"cross-entropy": F.cross_entropy(logits[counted], targets[counted])}
    for name, pairs in compared.items():
        distances = []
        for number, (low, high) in enumerate(pairs):
            projection = grid(64, 48, 3 + number, 5 + number).requires_grad_()
            projections[f"projections.{name}.{number}.weight"] = projection
            distances.append(LOSSES[name](of_student[low][counted] @ projection.T, of_teacher[high][counted]))
        values[name] = sum(distances) / len(distances)
    (values["cross-entropy"] + sum(weight * values[name] for name, weight in weights.items())).backward()
    gradients = {name: weight.grad for name, weight in student.model.named_parameters()}
    gradients |= {name: projection.grad for name, projection in projections.items()}
    return {
        "layers": compared,
        "weights": weights,
        "values": {name: value.item() for name, value in values.items()},
        "gradients": {
            name: {"norm": gradient.norm().item(), "first": gradient.flatten()[:6].tolist()}
            for name, gradient in gradients.items()
        },
    }


def main() -> None:
    text = json.dumps({"formulas": formulas(), "step": step()}, indent=1)
    (GOLDEN / "hidden_states.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
