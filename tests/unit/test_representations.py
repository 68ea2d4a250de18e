"""How alike hidden states are: known sets of vectors, and two models computed another way."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from evals import _states, representations
from evals._likeness import cosines, gram, jackknife, linear_cka
from evals._states import sampled, states
from evals._types import DataError
from tests.tiny_subject import stories_subject, tiny_subject
from tests.unit.test_base_subject import folders  # noqa: F401
from trainables._bos_zero import BosZero
from trainables._export import load
from trainables._scaling import Scaling

TEXTS = ["The sea is calm and the boats are out.", "Ask me.", "Rain fell on the town all night, and nobody slept well."]
FIRST, ELSEWHERE = representations.FIRST, representations.ELSEWHERE


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def vectors(items, width, seed=0):
    return np.random.default_rng(seed).normal(size=(items, width))


# -- known sets of vectors ------------------------------------------------------------------------------------------


def test_cka_by_hand():
    one, other = np.array([[1.0], [2.0], [3.0]]), np.array([[1.0], [0.0], [2.0]])
    # One dimension each: the square of Pearson's correlation, here (1 / sqrt(2 * 2))^2.
    assert linear_cka(one, other) == pytest.approx(0.25)
    plane = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    line = np.array([[1.0], [-1.0], [0.0], [0.0]])
    # X'X = diag(2, 8), Y'Y = 2, Y'X = (2, 0): 4 / (sqrt(68) * 2).
    assert linear_cka(plane, line) == pytest.approx(4 / (math.sqrt(68) * 2))


def test_cka_is_one_for_the_same_vectors_also_rotated_scaled_and_moved():
    x = vectors(40, 7)
    rotation, _ = np.linalg.qr(vectors(7, 7, seed=1))
    for changed in (x, x @ rotation, 3.5 * x, -x, x + 11, 0.01 * x @ rotation - 2, np.pad(x, ((0, 0), (0, 5)))):
        assert linear_cka(x, changed) == pytest.approx(1.0, abs=1e-9)
    stretched = x * np.array([10.0, 1, 1, 1, 1, 1, 1])
    assert linear_cka(x, stretched) < 0.9, "no other linear map is undone"
    assert linear_cka(x, stretched) == pytest.approx(linear_cka(stretched, x))


def test_cka_of_unrelated_vectors_is_small_where_items_outnumber_dimensions():
    assert linear_cka(vectors(2000, 5), vectors(2000, 5, seed=2)) < 0.02


def test_cka_equals_the_formula_over_dimensions():
    x, y = vectors(30, 6), vectors(30, 4, seed=3) + vectors(30, 6)[:, :4]
    x0, y0 = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(y0.T @ x0) ** 2 / (np.linalg.norm(x0.T @ x0) * np.linalg.norm(y0.T @ y0))
    assert linear_cka(x, y) == pytest.approx(expected)


def test_vectors_that_do_not_differ_have_no_cka():
    same = np.tile(vectors(1, 6), (9, 1))
    assert math.isnan(linear_cka(same, vectors(9, 6)))
    assert math.isnan(linear_cka(same + 1e-7 * vectors(9, 6), vectors(9, 6))), "rounding is no difference"
    with pytest.raises(ValueError, match="same items"):
        linear_cka(same, vectors(8, 6))


def test_cosines_and_vectors_of_zeros():
    one = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    other = np.array([[-2.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert cosines(one, other).tolist() == pytest.approx([-1.0, math.sqrt(0.5), 0.0, 1.0])


def test_the_jackknife_leaves_texts_out_whole():
    x, y, clusters = vectors(12, 3), vectors(12, 3) + vectors(12, 3, seed=4), [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    left = []
    for text in range(4):
        kept = [place for place, cluster in enumerate(clusters) if cluster != text]
        left.append(linear_cka(x[kept], y[kept]))
    expected = math.sqrt(3 / 4 * sum((value - sum(left) / 4) ** 2 for value in left))
    assert jackknife([(gram(x), gram(y))], clusters) == pytest.approx(expected)
    assert math.isnan(jackknife([(gram(x), gram(y))], [0] * 12))


def test_sampled_tokens_are_the_first_and_others_spread_evenly():
    assert sampled(5, 2) == [0, 1, 3]
    assert sampled(5, 9) == [0, 1, 2, 3, 4]
    assert sampled(2, 1) == [0, 1]


# -- models ---------------------------------------------------------------------------------------------------------


def own_states(subject, ids):
    """[layers + 1, tokens, width] by the library's own way, with the last layer before the last norm."""
    kept = []
    handle = subject.model.model.layers[-1].register_forward_hook(lambda module, args, output: kept.append(output[0]))
    with torch.no_grad():
        found = subject.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    handle.remove()
    return torch.stack([*(layer[0] for layer in found[:-1]), kept[0]]).double().numpy()


def encoded(subject, text, length=64):
    return subject.encode([{"role": "text", "content": text}], "all", max_length=length).input_ids


def test_the_states_are_the_residual_stream_of_one_pass(shared_file):
    subject = stories_subject(shared_file("tinystories-656k"))
    ids = subject.tokenize(TEXTS[0])
    assert np.allclose(states(subject, ids), own_states(subject, ids), atol=1e-5)


def test_the_numbers_are_what_a_direct_computation_gives(data, tmp_path):
    base, subject = tiny_subject(seed=1), tiny_subject()
    result = representations.run(replace(subject, untouched=base), representations.Config(), data, tmp_path)
    pairs = [(own_states(subject, encoded(subject, t)), own_states(base, encoded(subject, t))) for t in TEXTS]
    near = [torch.cosine_similarity(torch.tensor(a), torch.tensor(b), dim=-1).numpy() for a, b in pairs]
    likeness = result.tables["likeness"]
    assert likeness["cosine"][FIRST] == pytest.approx(np.mean([each[1:, 0] for each in near], 0), abs=1e-5)
    elsewhere = np.concatenate([each[:, 1:] for each in near], 1).mean(1)
    assert likeness["cosine"][ELSEWHERE] == pytest.approx(elsewhere[1:], abs=1e-5)
    assert result.tables["embeddings"]["cosine"][ELSEWHERE] == pytest.approx(elsewhere[0], abs=1e-5)
    assert result.metrics["representations/cosine_elsewhere"].value == pytest.approx(elsewhere[1:].mean(), abs=1e-5)
    for layer in (1, 2):
        x, y = (np.concatenate([pair[side][layer, 1:] for pair in pairs]) for side in (0, 1))
        assert likeness["CKA"][ELSEWHERE][layer - 1] == pytest.approx(linear_cka(x, y), abs=1e-5)
    assert result.metrics["representations/cka_elsewhere"].value == pytest.approx(np.mean(likeness["CKA"][ELSEWHERE]))
    assert result.metrics["representations/cka_elsewhere"].stderr > 0
    assert (result.tables["layers"], result.tables["width"], result.tables["texts"]) == (2, 32, 3)


def test_behind_one_first_token_position_0_has_no_cka_and_behind_several_it_has(data, tmp_path):
    subject = replace(tiny_subject(), untouched=tiny_subject(seed=1))
    tables = representations.run(subject, representations.Config(), data, tmp_path).tables
    assert tables["likeness"]["CKA"][FIRST] == [None, None]
    assert "same token" in tables["note"]
    for each in (subject, subject.untouched):
        each.tokenizer.bos_token = None
        each.encode = lambda messages, *args, **kwargs: replace(
            tiny_subject().encode(messages, "all"), input_ids=[ord(c) % 90 + 5 for c in messages[0]["content"]]
        )
    tables = representations.run(subject, representations.Config(), data, tmp_path).tables
    assert None not in tables["likeness"]["CKA"][FIRST]
    assert "note" not in tables


def test_the_base_beside_itself_is_the_same_and_alone_has_nothing_to_say(data, tmp_path):
    subject = tiny_subject()
    result = representations.run(replace(subject, untouched=tiny_subject()), representations.Config(), data, tmp_path)
    assert set(result.metrics) == set(representations.metrics(representations.Config()))
    assert [metric.value for metric in result.metrics.values()] == pytest.approx([1.0] * 3, abs=1e-9)
    alone = representations.run(subject, representations.Config(), data, tmp_path)
    assert (alone.metrics, alone.tables) == ({}, {})


def test_texts_in_portions_give_the_same_and_leave_nothing_behind(data, tmp_path, monkeypatch):
    subject = replace(tiny_subject(), untouched=tiny_subject(seed=1))
    whole = representations.run(subject, representations.Config(), data, tmp_path)
    monkeypatch.setattr(_states, "SCRATCH_BYTES", 1)
    assert representations.run(subject, representations.Config(), data, tmp_path) == whole
    assert [path.name for path in tmp_path.iterdir()] == ["texts.jsonl"]


def test_a_first_token_without_information_is_unlike_the_bases_at_position_0(shared_file, data, tmp_path):
    subject = stories_subject(shared_file("tinystories-656k"))
    Scaling.of(BosZero(factor=0.0), subject.model).install(subject.model)
    beside = replace(subject, untouched=stories_subject(shared_file("tinystories-656k")))
    result = representations.run(beside, representations.Config(), data, tmp_path)
    assert result.tables["embeddings"]["cosine"] == {FIRST: 0.0, ELSEWHERE: 1.0}
    assert result.metrics["representations/cosine_first"].value < 0.5
    assert result.metrics["representations/cosine_elsewhere"].value > 0.5


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_exports_are_compared_with_their_base_row(kind, folders, data, tmp_path):  # noqa: F811
    subject = replace(load(folders[kind]), base_folder=folders["base"])
    result = representations.run(subject, representations.Config(), data, tmp_path)
    base, ids = load(folders["base"]), subject.encode([{"role": "text", "content": TEXTS[0]}], "all").input_ids
    near = cosines(states(subject, ids), states(base, ids))[1:].mean(0)
    score = result.samples[0]["scores"]["representations/cosine_elsewhere"]
    assert score == {"sum": pytest.approx(near[1:].sum()), "count": len(ids) - 1}
    assert result.metrics["representations/cka_elsewhere"].value < 1


def test_texts_that_are_read_as_other_tokens_cannot_be_compared(data, tmp_path):
    other = tiny_subject()
    other.encode = lambda *args, **kwargs: replace(tiny_subject().encode([], "all"), input_ids=[5, 6, 7])
    with pytest.raises(DataError, match="none of its texts as the same tokens"):
        representations.run(replace(tiny_subject(), untouched=other), representations.Config(), data, tmp_path)
