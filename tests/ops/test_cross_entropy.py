import pytest
import torch
import torch.nn.functional as F

from diffmamba.ops import cross_entropy
from tolerance import DTYPES, GPU, assert_close, compare_backends

DEVICE = "cuda" if GPU else "cpu"
SIZES = [1, 5, 1000, 4096, 4097, 9001]


def make(vocab, batch=(2, 3)):
    labels = torch.randint(vocab, batch)
    labels.view(-1)[1] = -100
    return {"logits": 4 * torch.randn(*batch, vocab, dtype=torch.float64), "labels": labels}


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_torch_equals_naive(dtype, reduction):
    compare_backends(cross_entropy, make(50), dtype=dtype, reduction=reduction)


@pytest.mark.exact("the Triton kernels of the cross-entropy equal the equation, losses and gradients")
@pytest.mark.usefixtures("nan_filled_empty")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocab", SIZES)
def test_triton_equals_naive(vocab, dtype):
    for reduction in ("none", "sum", "mean"):
        compare_backends(cross_entropy, make(vocab), (), dtype, "triton", reduction=reduction)


@pytest.mark.parametrize("backend", ["naive", "torch", "triton"])
def test_impossible_tokens(backend):
    """A probability of 0, in whole blocks of the first row, and everywhere but at the label in the second."""
    logits = torch.randn(3, 4100, device=DEVICE)
    logits[0, :4097] = logits[1, :-1] = -torch.inf
    logits = logits.requires_grad_()
    labels = torch.full((3,), 4099, device=DEVICE)
    losses = cross_entropy(logits, labels, reduction="none", backend=backend)
    (grad,) = torch.autograd.grad(losses.sum(), logits)
    assert_close(losses[0], -logits[0, 4097:].log_softmax(-1)[-1], 1e-5)
    assert losses[1] == 0
    assert grad.isfinite().all() and not grad[0, :4097].any() and not grad[1].any()


@pytest.mark.parametrize("backend", ["naive", "torch", "triton"])
def test_labels_that_do_not_count(backend):
    """Neither in the mean nor in the gradient, whatever their logits are; the id that says so is chosen."""
    logits, labels = torch.randn(4, 6, device=DEVICE), torch.tensor([2, 5, 0, 5], device=DEVICE)
    kept = logits[[0, 2]].requires_grad_()
    logits = logits.clone().requires_grad_()
    options = {"ignore_index": 5, "backend": backend}
    loss, oracle = cross_entropy(logits, labels, **options), F.cross_entropy(kept, labels[[0, 2]])
    assert_close(loss, oracle, 1e-6)
    (grad,), (expected,) = torch.autograd.grad(loss, logits), torch.autograd.grad(oracle, kept)
    assert_close(grad[[0, 2]], expected, 1e-5)
    assert not grad[[1, 3]].any()
    assert cross_entropy(logits, torch.full_like(labels, 5), **options).isnan()


@pytest.mark.parametrize("label", [7, -1])
def test_triton_does_not_read_beyond_the_logits(label):
    losses = cross_entropy(
        torch.randn(2, 7, device=DEVICE), torch.tensor([label, 0], device=DEVICE), reduction="none", backend="triton"
    )
    assert losses.isnan().tolist() == [True, False]


def test_triton_takes_any_layout():
    """Rows apart, evenly and unevenly, and channels apart."""
    whole, labels = torch.randn(3, 5, 40, device=DEVICE), torch.randint(16, (3, 5), device=DEVICE)
    for logits in (whole[:, :, 3:19], whole[:, :4, 3:19], whole[:, :4, :32:2]):
        logits, ids = logits.detach().requires_grad_(), labels[:, : logits.shape[1]]
        found = [cross_entropy(logits, ids, backend=backend) for backend in ("triton", "naive")]
        grads = [torch.autograd.grad(loss, logits)[0] for loss in found]
        assert_close(*found, 1e-6)
        assert_close(*grads, 1e-5)


def test_keeps_only_the_logits():
    """For the backward pass, not a copy in fp32."""
    logits = torch.randn(64, 512, device=DEVICE, dtype=torch.float16, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        cross_entropy(logits, torch.randint(512, (64,), device=DEVICE), backend="triton")
    assert sum(t.nbytes for t in kept if t.data_ptr() != logits.data_ptr()) < logits.nbytes / 10


def test_unknown_reduction(unchecked_types):
    with pytest.raises(ValueError, match="`reduction` must be one of"):
        cross_entropy(torch.randn(2, 3), torch.tensor([0, 1]), reduction="average")
