"""Ten AdamW steps of the golden models in PyTorch, in f32 and under bf16 autocast on the processor: `golden/bf16.json`.

    python src/student/tests/bf16_reference.py > src/student/tests/golden/bf16.json

Master weights are f32. The embedding is cast to bf16, so that layers hand bf16 to each other, as they do in stillhouse;
autocast alone would leave the residual stream in f32.
"""

import json
import pathlib
import sys

import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

GOLDEN = pathlib.Path(__file__).parent / "golden"


def losses(folder: pathlib.Path, bf16: bool) -> list[float]:
    ids = torch.tensor(json.loads((folder / "expected.json").read_text())["ids"])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    kept = []
    for _ in range(10):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            embedded = model.get_input_embeddings()(ids)
            logits = model(inputs_embeds=embedded.to(torch.bfloat16) if bf16 else embedded).logits
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        kept.append(loss.item())
    return kept


if __name__ == "__main__":
    made = {}
    for folder in sorted(path.parent for path in GOLDEN.glob("*/expected.json")):
        expected = json.loads((folder / "expected.json").read_text())
        if "adamw" not in expected:
            continue
        apart = max(abs(a - b) for a, b in zip(losses(folder, False), expected["adamw"]["losses"], strict=True))
        print(f"{folder.name}: {apart:.1e} from the stored f32 losses", file=sys.stderr)
        made[folder.name] = losses(folder, True)
    json.dump(made, sys.stdout, indent=1)
    print()
