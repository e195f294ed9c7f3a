import pytest
import torch
from transformers.loss.loss_utils import ForCausalLMLoss

from diffmamba import DiffMambaForCausalLM, build_config
from diffmamba.models.loss import causal_lm_loss
from diffmamba.ops import default_backend
from tolerance import GPU, assert_close

DEVICE = "cuda" if GPU else "cpu"


@pytest.mark.parametrize("backend", ["torch", "triton"])
@pytest.mark.parametrize("items", [None, 5, torch.tensor(5)])
@pytest.mark.parametrize("shifted", [False, True])
def test_equals_transformers(backend, items, shifted):
    logits, labels = torch.randn(2, 7, 50, device=DEVICE), torch.randint(50, (2, 7), device=DEVICE)
    labels[0, :3] = -100
    options = {"labels": labels, "vocab_size": 50, "num_items_in_batch": items}
    options |= {"shift_labels": labels.roll(2)} if shifted else {}
    with default_backend(backend):
        loss = causal_lm_loss(logits, **options)
    assert_close(loss, ForCausalLMLoss(logits, **options), 1e-6)


def test_another_loss_takes_its_place():
    """And is given what lm_head made, in its dtype; what is returned is in fp32."""
    model, tokens = DiffMambaForCausalLM(build_config("tiny")).bfloat16(), torch.randint(256, (1, 5))
    seen = {}
    model.loss_function = lambda **given: seen.update(given) or given["logits"].sum()
    outputs = model(tokens, labels=tokens)
    assert seen["logits"].dtype == torch.bfloat16 and outputs.logits.dtype == torch.float32
    assert torch.equal(outputs.loss, seen["logits"].sum())
    assert torch.equal(seen["labels"], tokens) and seen["vocab_size"] == 256
