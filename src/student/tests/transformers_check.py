"""Whether transformers loads the folders that stillhouse writes, and computes the same logits from them.

    STILLHOUSE_KEEP_MODELS=/some/folder cargo test -p stillhouse-student --no-default-features --test models parity
    python src/student/tests/transformers_check.py /some/folder/*

Each folder holds a model and `logits.json`: rows of token ids and the logits that stillhouse computed for them.
"""

import json
import pathlib
import sys

import torch
from transformers import AutoModelForCausalLM

LIMIT = 2e-4


def largest_difference(folder: pathlib.Path) -> float:
    ours = json.loads((folder / "logits.json").read_text())
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    unmatched = {kind: names for kind, names in info.items() if names}
    if unmatched:
        raise SystemExit(f"{folder}: {unmatched}")
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(ours["ids"])).logits.flatten()
    return (theirs - torch.tensor(ours["logits"])).abs().max().item()


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    differences = {folder: largest_difference(pathlib.Path(folder)) for folder in sys.argv[1:]}
    for folder, difference in differences.items():
        print(f"{difference:.1e}  {folder}")
    if max(differences.values()) > LIMIT:
        raise SystemExit(f"more than {LIMIT} apart")


if __name__ == "__main__":
    main()
