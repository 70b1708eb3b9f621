from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch

from workbench.errors import ConfigError
from workbench.models import attention_policy, chunked_attention
from workbench.models.attention import FORWARD_ONLY_ON_CPU, AttentionInput, attention, implementations

CASES = [
    (grid, text, masked, batch)
    for grid, batch in (((5, 5), 2), ((4, 7), 1), ((1, 6), 2), ((14, 14), 1))
    for text, masked in ((0, False), (6, False), (6, True))
]


def example(
    grid: tuple[int, int], text: int, masked: bool, dtype: torch.dtype, all_queries: bool = True, batch: int = 2
) -> AttentionInput:
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=dtype).requires_grad_()

    height, width = grid
    tokens = height * width + text
    queries = tokens if all_queries else height * width
    mask = None
    if masked:
        mask = (torch.arange(text) < torch.tensor([[2], [text]]))[:batch]
    return AttentionInput(
        draw(batch, 3, queries, 8), draw(batch, 3, tokens, 8), draw(batch, 3, tokens, 8), grid,
        draw(height, height, 8), draw(width, width, 8), mask,
    )  # fmt: skip


FIELDS = ("q", "k", "v", "relative_h", "relative_w")


def in_type(inputs: AttentionInput, dtype: torch.dtype) -> AttentionInput:
    changed = {name: getattr(inputs, name).detach().to(dtype).requires_grad_() for name in FIELDS}
    return dataclasses.replace(inputs, **changed)


def gradients_of(inputs: AttentionInput) -> list[torch.Tensor]:
    return [getattr(inputs, name).grad for name in FIELDS]


@pytest.mark.parametrize("name", [n for n in implementations if n != "eager"])
@pytest.mark.parametrize(("grid", "text", "masked", "batch"), CASES)
@pytest.mark.parametrize("all_queries", [True, False])
@pytest.mark.parametrize(("dtype", "forward", "backward"), [(torch.float32, 1e-5, 1e-4), (torch.float64, 1e-10, 1e-10)])
def test_every_implementation_equals_the_eager_reference(
    name: str, grid: tuple[int, int], text: int, masked: bool, batch: int, all_queries: bool, dtype: torch.dtype,
    forward: float, backward: float, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(chunked_attention, "CHUNK_ELEMENTS", 400)
    monkeypatch.setattr(chunked_attention, "CHUNK_QUERIES", 5)  # so that rows and batch are cut here too
    outputs, gradients = [], []
    for implementation in ("eager", name):
        inputs = example(grid, text, masked, dtype, all_queries, batch)
        if name in FORWARD_ONLY_ON_CPU:
            with torch.no_grad():
                outputs.append(attention(inputs, implementation))
            continue
        out = attention(inputs, implementation)
        (out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out)).sum().backward()
        outputs.append(out.detach())
        gradients.append([t.grad for t in (inputs.q, inputs.k, inputs.v, inputs.relative_h, inputs.relative_w)])
    torch.testing.assert_close(outputs[1], outputs[0], rtol=forward, atol=forward)
    for mine, reference in zip(*gradients[::-1], strict=True) if gradients else ():
        torch.testing.assert_close(mine, reference, rtol=backward, atol=backward)


@pytest.mark.parametrize("name", list(implementations))
def test_padding_words_change_nothing_when_masked(name: str) -> None:
    inputs = example((4, 4), 6, True, torch.float64)
    changed = AttentionInput(
        inputs.q, inputs.k.detach().clone(), inputs.v.detach().clone(), inputs.grid, inputs.relative_h,
        inputs.relative_w, inputs.text_mask,
    )  # fmt: skip
    changed.k[0, :, 2:6] += 100
    changed.v[0, :, 2:6] -= 7
    with torch.no_grad():
        torch.testing.assert_close(attention(changed, name), attention(inputs, name), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in implementations if n not in FORWARD_ONLY_ON_CPU])
def test_deterministic_repeats_are_bit_identical(name: str) -> None:
    inputs = example((14, 14), 6, True, torch.float32)
    wanted = [inputs.q, inputs.k, inputs.v, inputs.relative_h, inputs.relative_w]
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(3):
            out = attention(inputs, name)
            runs.append([out, *torch.autograd.grad(out.square().sum(), wanted)])  # type: ignore[arg-type]
    finally:
        torch.use_deterministic_algorithms(False)
    for again in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], again, strict=True))


def test_the_number_of_threads_changes_no_bit_of_chunked_attention() -> None:
    before = torch.get_num_threads()
    runs = []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            inputs = example((32, 32), 20, True, torch.float32)
            out = attention(inputs, "chunked")
            out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
            runs.append([out.detach(), *gradients_of(inputs)])
    finally:
        torch.set_num_threads(before)
    for again in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], again, strict=True))


def test_chunked_attention_in_its_own_chunks_equals_the_reference_in_twice_the_digits() -> None:
    results = []
    for name, dtype in (("chunked", torch.float32), ("eager", torch.float64)):
        inputs = in_type(example((32, 32), 20, True, torch.float32), dtype)
        out = attention(inputs, name)
        out.backward(torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out))
        results.append([x.double() for x in (out.detach(), *gradients_of(inputs))])
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=5e-6 * float(reference.abs().max()))


def test_chunked_attention_needs_no_gradients_and_takes_views_of_one_projection() -> None:
    joint = torch.randn(2, 6 + 25, 3, 3, 8)
    q, k, v = joint.permute(2, 0, 3, 1, 4)
    inputs = AttentionInput(q, k, v, (5, 5), torch.randn(5, 5, 8), torch.randn(5, 5, 8))
    expected = attention(inputs, "eager")
    torch.testing.assert_close(attention(inputs, "chunked"), expected, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(attention(inputs, "chunked"), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in implementations if n not in FORWARD_ONLY_ON_CPU])
def test_autocast_takes_tables_of_another_type(name: str) -> None:
    inputs = example((8, 8), 6, True, torch.float32)
    exact = attention(inputs, "eager")
    halves = dataclasses.replace(
        inputs, **{field: getattr(inputs, field).detach().bfloat16().requires_grad_() for field in "qkv"}
    )
    with torch.autocast("cpu", torch.bfloat16):
        out = attention(halves, name)
    out.float().square().sum().backward()
    assert (out.float() - exact).abs().mean() < 0.02
    assert inputs.relative_h is not None
    assert inputs.relative_h.grad is not None
    assert torch.isfinite(inputs.relative_h.grad).all()


@pytest.mark.parametrize(
    ("device", "gradient", "tokens", "chosen"),
    [
        ("cpu", False, 78, "eager"),
        ("cpu", True, 128, "eager"),
        ("cpu", True, 196, "chunked"),
        ("cpu", False, 4096, "chunked"),
        ("cuda", True, 1044, "augmented"),
        ("cuda", False, 196, "augmented"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_shipped_policy(device: str, dtype: str, gradient: bool, tokens: int, chosen: str) -> None:
    assert attention_policy.choose.__wrapped__(device, dtype, gradient, tokens) == chosen


def test_the_policy_sees_shape_and_gradient_and_says_what_it_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "table.json"
    rules = [
        {"device": "cpu", "dtype": "float32", "gradient": True, "max_tokens": 40, "implementation": "chunked"},
        {"implementation": "sdpa"},
    ]
    file.write_text(json.dumps({"measured": "by hand", "rules": rules}))
    monkeypatch.setenv(attention_policy.VARIABLE, str(file))
    attention_policy.choose.cache_clear()
    ran: list[str] = []
    for name in ("chunked", "sdpa"):
        implementation = implementations[name]
        monkeypatch.setitem(
            implementations._things,
            name,
            lambda inputs, run=implementation, name=name: (ran.append(name), run(inputs))[1],
        )
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            attention(example((5, 5), 6, True, torch.float32))
        with torch.no_grad():
            attention(example((5, 5), 6, True, torch.float32))
        attention(example((6, 6), 6, True, torch.float32))
        attention(example((5, 5), 6, True, torch.float64))
        attention(dataclasses.replace(example((5, 5), 0, False, torch.float32), relative_h=None, relative_w=None))
    attention_policy.choose.cache_clear()
    assert ran == ["chunked", "chunked", "sdpa", "sdpa", "sdpa", "sdpa"]
    assert [record.message for record in caplog.records][:2] == [
        "attention on cpu in float32, 31 tokens, with gradient: chunked",
        "attention on cpu in float32, 31 tokens, without gradient: sdpa",
    ]
    assert len(caplog.records) == 4, "once for each kind"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "not a table of attention rules"),
        ('{"measured": "", "rules": [{"implementation": "magic"}]}', r"rules\.0\.implementation"),
        ('{"measured": "", "rules": [{"device": "cuda", "implementation": "eager"}]}', "no rule for cpu, float32"),
    ],
)
def test_a_wrong_table_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, message: str
) -> None:
    file = tmp_path / "table.json"
    if text is not None:
        file.write_text(text)
    monkeypatch.setenv(attention_policy.VARIABLE, str(file))
    with pytest.raises(ConfigError, match=message):
        attention_policy.choose.__wrapped__("cpu", "float32", True, 9)


def test_bfloat16_stays_close() -> None:
    inputs = example((8, 8), 6, True, torch.float32)
    exact = attention(inputs, "eager")
    half = AttentionInput(
        *(t.bfloat16() for t in (inputs.q, inputs.k, inputs.v)), inputs.grid,
        *(t.bfloat16() for t in (inputs.relative_h, inputs.relative_w) if t is not None), inputs.text_mask,
    )  # fmt: skip
    for name in set(implementations) - FORWARD_ONLY_ON_CPU:
        assert (attention(half, name).float() - exact).abs().mean() < 0.02
