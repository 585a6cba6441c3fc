import pytest
import torch

from activebdl.randomness import generator, global_rng_from, normal_like


def draw(seed: int, round: int, purpose: str) -> list[float]:
    return torch.rand(4, generator=generator(seed, round, purpose)).tolist()


def test_the_three_arguments_alone_decide() -> None:
    first = draw(0, 3, "fit")
    torch.rand(100)
    assert draw(0, 3, "fit") == first
    assert len({tuple(draw(s, r, p)) for s in range(3) for r in range(3) for p in ("fit", "score")}) == 18


def test_global_generator_is_seeded_inside_and_put_back_after() -> None:
    before = torch.get_rng_state()
    with global_rng_from(generator(0, 0, "fit"), torch.device("cpu")):
        inside = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with global_rng_from(generator(0, 0, "fit"), torch.device("cpu")):
        assert torch.equal(torch.rand(3), inside)


def test_pinned_values() -> None:
    """A change here would change every result that was published with a seed."""
    assert torch.randint(1000, (5,), generator=generator(0, 0, "fit")).tolist() == PINNED


PINNED = [654, 805, 414, 77, 325]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normal_numbers_take_shape_type_and_layout_and_obey_their_generator(layout: torch.memory_format) -> None:
    like = torch.empty(64, 3, 20, 20, dtype=torch.float64, memory_format=layout)
    one, same = (normal_like(like, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.shape == like.shape and one.dtype == like.dtype and one.stride() == like.stride()
    assert torch.equal(one, same)
    assert abs(float(one.mean())) < 4 / one.numel() ** 0.5
    assert abs(float(one.square().mean()) - 1) < 4 * (2 / one.numel()) ** 0.5
    assert len(one.unique()) == one.numel()


def test_normal_numbers_without_a_generator_are_the_global_ones() -> None:
    torch.manual_seed(5)
    expected = torch.randn(40)
    torch.manual_seed(5)
    assert torch.equal(normal_like(torch.empty(40)), expected)


def test_normal_numbers_are_as_many_as_an_expanded_tensor_shows() -> None:
    noise = normal_like(torch.zeros(5).expand(1000, 5), torch.Generator().manual_seed(0))
    assert noise.shape == (1000, 5) and len(noise.unique()) == 5000
